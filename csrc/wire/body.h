// The body of a frame: small ones from the heap, large ones from a pool that keeps their pages, or
// in memory that a transport lends.
//
// Thread-safety: a BodyPool may be used from any thread; a Body by one at a time. Ownership: a Body
// owns its memory and gives it back to its pool, which must outlive it; of what is lent it shares
// the ownership. Invariant: data() is aligned to 8 bytes, so that the arrays of a message can be
// used where they lie.
#pragma once

#include <cstddef>
#include <memory>
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
    owner_ = std::move(other.owner_);
    bytes_ = std::exchange(other.bytes_, {});
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
    body.bytes_ = {body.region_.data(), bytes};
    return body;
  }

  // Memory that `owner` keeps alive.
  static Body Borrow(std::shared_ptr<const void> owner, std::span<std::byte> bytes) {
    Body body;
    body.owner_ = std::move(owner);
    body.bytes_ = bytes;
    return body;
  }

  std::byte* data() const { return bytes_.data(); }
  size_t size() const { return bytes_.size(); }
  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  void GiveBack() {
    if (pool_ != nullptr && region_) pool_->Return(std::move(region_));
    pool_ = nullptr;
  }

  BodyPool* pool_ = nullptr;
  Region region_;
  std::shared_ptr<const void> owner_;
  std::span<std::byte> bytes_;
};

}  // namespace embery
