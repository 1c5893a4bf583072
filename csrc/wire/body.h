// The body of a frame in memory of its own: small ones from the heap, large ones from a pool that
// keeps their pages.
//
// Thread-safety: a BodyPool may be used from any thread; a Body by one at a time. Ownership: a Body
// owns its memory and gives it back to its pool, which must outlive it. Invariant: data() is
// aligned to 64 bytes, so that the arrays of a message can be used where they lie.
#pragma once

#include <cstddef>
#include <span>
#include <utility>

#include "base/region_pool.h"

namespace embery {

using BodyPool = RegionPool;

class Body {
 public:
  static constexpr size_t kPooledBytesMin = size_t{256} << 10;

  Body() = default;
  Body(Body&& other) noexcept { *this = std::move(other); }
  Body& operator=(Body&& other) noexcept {
    GiveBack();
    pool_ = std::exchange(other.pool_, nullptr);
    region_ = std::move(other.region_);
    size_ = std::exchange(other.size_, 0);
    return *this;
  }
  ~Body() { GiveBack(); }

  // Contents undefined; data() is null if `bytes` > 0 and the system has no memory left.
  static Body Take(BodyPool& pool, size_t bytes) {
    Body body;
    if (bytes == 0) return body;
    const bool pooled = bytes >= kPooledBytesMin;
    body.region_ = pooled ? pool.Take(bytes) : Region::Allocate(bytes);
    body.pool_ = pooled ? &pool : nullptr;
    body.size_ = bytes;
    return body;
  }

  std::byte* data() const { return region_.data(); }
  size_t size() const { return size_; }
  std::span<const std::byte> bytes() const { return {data(), size_}; }

 private:
  void GiveBack() {
    if (pool_ != nullptr && region_) pool_->Return(std::move(region_));
    pool_ = nullptr;
  }

  BodyPool* pool_ = nullptr;
  Region region_;
  size_t size_ = 0;
};

}  // namespace embery
