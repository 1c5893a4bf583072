#include "table/record_pool.h"

#include <utility>

namespace embery {
namespace {

// Blocks are small enough that 64 half-empty ones do not matter.
constexpr size_t kBlockBytesMax = size_t{64} << 10;
constexpr uint32_t kBlockRecordsMax = 256;

}  // namespace

RecordSlabs::RecordSlabs(size_t record_bytes) : record_bytes_(record_bytes), block_records_(1) {
  while (block_records_ < kBlockRecordsMax &&
         2 * block_records_ * record_bytes_ <= kBlockBytesMax) {
    block_records_ *= 2;
  }
  // Handle 0 means none: the block that would begin with it is never used.
  next_place_ = kFirstPlace + block_records_;
}

Handle RecordSlabs::AllocateBlock() {
  MutexLock lock(mutex_);
  if (next_place_ > UINT32_MAX - block_records_) return kNoHandle;
  const uint32_t slab = SlabOf(next_place_);
  if (slab == slabs_.size()) {
    Region region = Region::Allocate(record_bytes_ << QuarterBitsOf(next_place_));
    if (!region) return kNoHandle;
    bases_[slab] = region.data();
    slabs_.push_back(std::move(region));
  }
  const Handle first = next_place_ - kFirstPlace;
  next_place_ += block_records_;
  return first;
}

Handle RecordPool::Allocate() {
  if (!free_.empty()) {
    const Handle handle = free_.back();
    free_.pop_back();
    return handle;
  }
  if (left_ == 0) {
    const Handle first = slabs_->AllocateBlock();
    if (first == kNoHandle) return kNoHandle;
    next_ = first;
    left_ = slabs_->block_records();
    ++blocks_;
  }
  --left_;
  return next_++;
}

}  // namespace embery
