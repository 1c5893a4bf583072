// An array that is used again and again: growing keeps nothing and initialises nothing.
//
// Thread-safety: as for any value. Ownership: owns its elements. Requires a trivial T.
#pragma once

#include <cstddef>
#include <memory>
#include <type_traits>

namespace embery {

template <typename T>
class Buffer {
 public:
  static_assert(std::is_trivially_copyable_v<T> && std::is_trivially_destructible_v<T>);

  // Makes room for `count` elements and returns the first; all contents become undefined.
  T* Reset(size_t count) {
    if (count > capacity_) {
      capacity_ = count + count / 4;
      data_ = std::make_unique_for_overwrite<T[]>(capacity_);
    }
    return data_.get();
  }

  T* data() const { return data_.get(); }
  T& operator[](size_t i) const { return data_[i]; }

 private:
  std::unique_ptr<T[]> data_;
  size_t capacity_ = 0;
};

}  // namespace embery
