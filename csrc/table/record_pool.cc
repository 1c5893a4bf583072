#include "table/record_pool.h"

#include <algorithm>

namespace embery {
namespace {

// A slab grows with the table, so that small tables stay small and large ones lose little at its
// end.
constexpr size_t kSlabBytesMin = size_t{256} << 10;
constexpr size_t kSlabBytesMax = size_t{64} << 20;
constexpr size_t kSmallPagesBytesMax = size_t{1} << 20;
// Blocks are small enough that 64 half-empty ones do not matter.
constexpr size_t kBlockBytesMax = size_t{64} << 10;

}  // namespace

std::byte* SlabAllocator::Allocate(size_t bytes) {
  MutexLock lock(mutex_);
  if (slabs_.empty() || used_in_last_ + bytes > slabs_.back().bytes()) {
    size_t wanted = std::max(bytes, std::clamp(total_bytes_ / 4, kSlabBytesMin, kSlabBytesMax));
    // Whole huge pages as soon as the table has a share of one to fill: on small pages a random
    // access also waits for the translation of its address.
    if (total_bytes_ + wanted > kSmallPagesBytesMax) {
      wanted = (wanted + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes;
    }
    Region slab = Region::Allocate(wanted);
    if (!slab) return nullptr;
    total_bytes_ += slab.bytes();
    used_in_last_ = 0;
    slabs_.push_back(std::move(slab));
  }
  std::byte* block = slabs_.back().data() + used_in_last_;
  used_in_last_ += bytes;
  return block;
}

RecordPool::RecordPool(SlabAllocator& slabs, size_t record_bytes)
    : slabs_(slabs), record_bytes_(record_bytes), block_shift_(0) {
  while (block_shift_ < 8 && (record_bytes << (block_shift_ + 1)) <= kBlockBytesMax) {
    ++block_shift_;
  }
  block_mask_ = (1u << block_shift_) - 1;
}

Handle RecordPool::Allocate() {
  if (!free_.empty()) {
    const Handle handle = free_.back();
    free_.pop_back();
    return handle;
  }
  if (next_ == kHandleMax) return kNoHandle;
  // Twice for the first record where a block holds one: handle 0 is not used.
  while ((next_ >> block_shift_) >= blocks_.size()) {
    std::byte* block = slabs_.Allocate((size_t{block_mask_} + 1) * record_bytes_);
    if (block == nullptr) return kNoHandle;
    blocks_.push_back(block);
  }
  return next_++;
}

}  // namespace embery
