// Large zeroed memory, on huge pages where it is big enough to profit.
//
// Thread-safety: as for any value; a Region is used by one owner. Ownership: freed on destruction.
#pragma once

#include <cstddef>
#include <utility>

#include "base/prefetch.h"

namespace embery {

inline constexpr size_t kHugePageBytes = size_t{2} << 20;

class Region {
 public:
  Region() = default;
  ~Region();
  Region(Region&& other) noexcept { *this = std::move(other); }
  Region& operator=(Region&& other) noexcept;
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;

  // Returns zeroed memory of at least `bytes`, aligned to a cache line; an empty Region if the
  // system has none left.
  static Region Allocate(size_t bytes);

  explicit operator bool() const { return data_ != nullptr; }
  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
  std::byte* mapping_ = nullptr;  // Start of the mapping; null if the memory came from the heap.
  size_t mapping_bytes_ = 0;
};

}  // namespace embery
