// What a slot group keeps aside while it is saved as of a cut: rows as they were, if they have
// changed or gone since, and what the group held beside them.
//
// A row is of the cut while its LSN is not above that of its slot at the cut. So nothing is copied
// when a cut begins: whoever is about to change such a row hands it over first, and whoever is
// about to change the rest does so with all of that. What was saved is not kept any longer.
//
// Thread-safety: CutMemory from any thread; a GroupCut is guarded by the lock of its group.
// Ownership: a GroupCut owns its copies and borrows the memory. Invariant: unless the memory is
// exceeded, the rows of the cut are those of the group whose LSN is not above the cut's, and those
// that were kept; none is both.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/hash.h"
#include "base/status.h"
#include "table/group_state.h"
#include "table/record.h"

namespace embery {

// What all groups of a store may keep aside together.
class CutMemory {
 public:
  explicit CutMemory(size_t bytes_max) : bytes_max_(bytes_max) {}

  // False if that is too much; the cut is lost then.
  bool Take(size_t bytes) {
    // Relaxed, here and below: it counts, and a group's copies are guarded by the group's lock.
    if (used_.fetch_add(bytes, std::memory_order_relaxed) + bytes <= bytes_max_) return true;
    exceeded_.store(true, std::memory_order_relaxed);
    return false;
  }
  // Relaxed, as above.
  void Give(size_t bytes) { used_.fetch_sub(bytes, std::memory_order_relaxed); }
  // Relaxed, as above.
  bool exceeded() const { return exceeded_.load(std::memory_order_relaxed); }
  // kResourceExhausted once it is exceeded.
  Status Check() const;

 private:
  const size_t bytes_max_;
  std::atomic<size_t> used_{0};
  std::atomic<bool> exceeded_{false};
};

class GroupCut {
 public:
  // `slot_lsns` are those of the group's slots now.
  GroupCut(CutMemory& memory, std::span<const Lsn, kSlotsPerGroup> slot_lsns, size_t record_bytes);
  ~GroupCut() { memory_.Give(bytes_); }
  GroupCut(const GroupCut&) = delete;
  GroupCut& operator=(const GroupCut&) = delete;

  Status Check() const { return memory_.Check(); }
  bool IsOf(uint32_t slot_in_group, Lsn lsn) const { return lsn <= slot_lsns_[slot_in_group]; }

  // The row is about to change or to go.
  void Keep(MixedKey mixed, const std::byte* record);
  // What the group holds beside rows is about to change; asked for once at the most.
  bool wants_state() const { return wants_state_; }
  void KeepState(GroupState state);
  const std::optional<GroupState>& state() const { return state_; }

  struct Image {
    MixedKey mixed;
    const std::byte* record;
  };
  // Rows kept of slots [begin, end), by ascending mixed key; valid until the next call.
  std::vector<Image> Images(uint32_t slot_begin, uint32_t slot_end) const;
  // Slots [begin, end) of the group are saved.
  void Saved(uint32_t slot_begin, uint32_t slot_end);
  // Whether any of them is.
  bool is_saved(uint32_t slot_begin, uint32_t slot_end) const {
    return (~unsaved_ & BitsOf(slot_begin, slot_end)) != 0;
  }

 private:
  static uint64_t BitsOf(uint32_t slot_begin, uint32_t slot_end);
  bool Take(size_t bytes);
  void Give(size_t bytes);

  CutMemory& memory_;
  const size_t record_bytes_;
  std::array<Lsn, kSlotsPerGroup> slot_lsns_;
  uint64_t unsaved_ = ~uint64_t{0};  // A bit a slot.
  bool wants_state_ = true;
  std::optional<GroupState> state_;
  std::vector<MixedKey> kept_;
  std::vector<std::byte> records_;  // record_bytes_ for each of `kept_`.
  size_t bytes_ = 0;                // Taken of the memory.
};

}  // namespace embery
