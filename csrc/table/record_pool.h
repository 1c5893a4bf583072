// Where the records of a table live: slabs on huge pages, cut into blocks for the slot groups.
//
// Thread-safety: SlabAllocator may be called from any thread; a RecordPool is guarded by the lock
// of its group. Ownership: the allocator owns the memory and must outlive its pools; blocks go back
// only when the allocator is destroyed, freed records are used again by their pool. Invariants: a
// handle is never 0 nor kHandleMax; the address of a record does not change.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/memory.h"
#include "base/mutex.h"

namespace embery {

using Handle = uint32_t;
inline constexpr Handle kNoHandle = 0;
inline constexpr Handle kHandleMax = UINT32_MAX;  // Not handed out: marks deleted index entries.

class SlabAllocator {
 public:
  // Returns zeroed memory aligned to 4 bytes, or null if the system has none left.
  std::byte* Allocate(size_t bytes) EXCLUDES(mutex_);

 private:
  Mutex mutex_;
  std::vector<Region> slabs_ GUARDED_BY(mutex_);
  size_t used_in_last_ GUARDED_BY(mutex_) = 0;
  size_t total_bytes_ GUARDED_BY(mutex_) = 0;
};

class RecordPool {
 public:
  RecordPool(SlabAllocator& slabs, size_t record_bytes);

  // Returns kNoHandle if memory or the space of handles is used up. The record's bytes are
  // undefined.
  Handle Allocate();
  void Free(Handle handle) { free_.push_back(handle); }

  std::byte* At(Handle handle) const {
    return blocks_[handle >> block_shift_] + (handle & block_mask_) * record_bytes_;
  }

  size_t bytes() const {
    return blocks_.size() * (block_mask_ + 1) * record_bytes_ + free_.capacity() * sizeof(Handle);
  }

 private:
  SlabAllocator& slabs_;
  size_t record_bytes_;
  uint32_t block_shift_;  // log2 of the records in a block.
  uint32_t block_mask_;
  std::vector<std::byte*> blocks_;
  Handle next_ = 1;
  std::vector<Handle> free_;
};

}  // namespace embery
