// Where the records of a table live: slabs on huge pages, cut into blocks for the slot groups.
//
// A handle counts records through all slabs of the table. The slabs grow with the table, four for
// each doubling, so that a handle's upper bits give its slab and there are so few that their
// addresses stay in the nearest cache.
//
// Thread-safety: AllocateBlock may be called from any thread; At by whoever learned of the handle
// from the thread that allocated its block, which the groups' locks see to. A RecordPool is guarded
// by the lock of its group. Ownership: RecordSlabs owns the memory and must outlive its pools;
// blocks go back only when it is destroyed, freed records are used again by their pool. Invariants:
// a handle is never 0 nor kHandleMax; the address of a record does not change.
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

class RecordSlabs {
 public:
  explicit RecordSlabs(size_t record_bytes);

  size_t record_bytes() const { return record_bytes_; }
  uint32_t block_records() const { return block_records_; }

  // The first handle of block_records() new ones; kNoHandle if memory or handles are used up.
  Handle AllocateBlock() EXCLUDES(mutex_);

  std::byte* At(Handle handle) const {
    const uint32_t place = handle + kFirstPlace;
    const uint32_t in_slab = place & ((1u << QuarterBitsOf(place)) - 1);
    return bases_[SlabOf(place)] + in_slab * record_bytes_;
  }

 private:
  // Places count from here, so that the first slabs have this size's quarter.
  static constexpr uint32_t kFirstPlaceBits = 12;
  static constexpr uint32_t kFirstPlace = 1u << kFirstPlaceBits;
  static constexpr uint32_t kSlabsMax = 4 * (32 - kFirstPlaceBits);

  // A slab holds the places that agree in their upper bit and the two below it.
  static uint32_t QuarterBitsOf(uint32_t place) {
    return 29u - static_cast<uint32_t>(__builtin_clz(place));
  }
  static uint32_t SlabOf(uint32_t place) {
    const uint32_t bits = QuarterBitsOf(place);
    return (bits + 2 - kFirstPlaceBits) * 4 + ((place >> bits) & 3);
  }

  const size_t record_bytes_;
  uint32_t block_records_;
  // An entry is written under mutex_, before a handle of its slab is handed out.
  std::byte* bases_[kSlabsMax] = {};
  Mutex mutex_;
  std::vector<Region> slabs_ GUARDED_BY(mutex_);
  uint32_t next_place_ GUARDED_BY(mutex_);
};

class RecordPool {
 public:
  explicit RecordPool(RecordSlabs& slabs) : slabs_(&slabs) {}

  // Returns kNoHandle if memory or the space of handles is used up. The record's bytes are
  // undefined.
  Handle Allocate();
  void Free(Handle handle) { free_.push_back(handle); }

  std::byte* At(Handle handle) const { return slabs_->At(handle); }

  size_t bytes() const {
    return blocks_ * slabs_->block_records() * slabs_->record_bytes() +
           free_.capacity() * sizeof(Handle);
  }

 private:
  RecordSlabs* slabs_;
  size_t blocks_ = 0;
  Handle next_ = kNoHandle;  // In the newest block, of which `left_` are left.
  uint32_t left_ = 0;
  std::vector<Handle> free_;
};

}  // namespace embery
