// A slot group: the rows of 64 slots, with their index, their admission and one lock.
//
// What changes the group's rows happens in one call under the exclusive lock. Reads take the shared
// lock of all the groups they touch, in ascending order, and go through a batch in its own order
// (ReadRows in read.h).
//
// Thread-safety: all public methods may be called from any thread, those that require the lock with
// it. Ownership: owns its index and records; the TableContext must outlive it. Invariants: a slot's
// LSN is raised once by every call that inserts, updates or deletes a row of the slot, and such a
// row carries the LSN of its last change; a deleted row leaves a tombstone with the LSN of the
// deletion.
#pragma once

#include <algorithm>
#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/mutex.h"
#include "base/prefetch.h"
#include "base/slot_set.h"
#include "base/status.h"
#include "optim/kernels.h"
#include "optim/row_codec.h"
#include "table/admission.h"
#include "table/changes.h"
#include "table/cut.h"
#include "table/group_state.h"
#include "table/index.h"
#include "table/lookup.h"
#include "table/record.h"
#include "table/record_pool.h"
#include "table/spec.h"

namespace embery {

// What the groups of a table share; constant but for the allocator, which locks itself.
struct TableContext {
  TableContext(const TableSpec& spec_in, const Kernels& kernels_in)
      : spec(spec_in),
        layout(spec.value_type, spec.optimizer.kind, spec.dim),
        kernels(kernels_in),
        slabs(layout.stride) {}

  const TableSpec spec;
  const RecordLayout layout;
  const Kernels& kernels;
  RecordSlabs slabs;
  SegmentPool index_segments;
};

// A group's share of a batch, in the order of the batch.
struct GroupBatch {
  const MixedKey* keys;
  const uint32_t* positions;  // Of the keys in the batch.
  size_t count;
};

struct Tick {
  uint32_t step;   // Of the table: the push under way, or the one a pull prepares.
  uint32_t now_s;  // Seconds since 1970.
};

// A row with everything that belongs to it; the pointers are valid during the call that passes it.
struct RowView {
  uint64_t key;
  uint32_t slot;
  Lsn lsn;
  uint32_t updates;
  uint32_t step;
  uint32_t time_s;
  const std::byte* values;
  const float* state;
};

// Where a row stands in the order of eviction; the smallest go first.
struct Rank {
  uint64_t major;
  uint64_t minor;
  uint64_t mixed;

  friend auto operator<=>(const Rank&, const Rank&) = default;
};

// Memory that calls reuse; one a thread at work.
struct GroupScratch {
  Buffer<uint32_t> heads;  // Hash table: number of the distinct key, plus one.
  Buffer<MixedKey> distinct;
  Buffer<uint32_t> which;        // Of a key of the batch: its distinct key.
  Buffer<uint32_t> ends;         // Of a distinct key: end of its part of `occurrences`.
  Buffer<uint32_t> occurrences;  // Positions, grouped by distinct key.
  Buffer<float> sum;
  Buffer<float> values;
};

class SlotGroup {
 public:
  SlotGroup(TableContext& context, uint32_t number);

  SharedMutex& mutex() RETURN_CAPABILITY(mutex_) { return mutex_; }

  // For reads under the shared lock.
  const Index& index() const REQUIRES_SHARED(mutex_) { return index_; }
  // The values of the key, or null if there is no such row, or an expired one; `guess` is the
  // index's guess at its record.
  const std::byte* ValuesOf(MixedKey mixed, Handle guess, uint32_t now_s) const
      REQUIRES_SHARED(mutex_) {
    const Handle handle = guess != kNoHandle && IsKey(guess, mixed) ? guess : Find(mixed);
    if (handle == kNoHandle || IsExpired(At(handle), now_s)) return nullptr;
    return At(handle).values();
  }

  // Inserts the keys that a read did not find, through admission, and writes row `positions[i]` of
  // `out` for each. On failure (memory) the rows that were inserted stay, with their first values.
  Status PullMissing(const GroupBatch& batch, Tick tick, RowsOut out, GroupScratch& scratch)
      EXCLUDES(mutex_);

  // kInvalidArgument if finite gradients of one key add up beyond float32.
  Status CheckSums(const GroupBatch& batch, const float* grads, GroupScratch& scratch) const;

  // One optimizer step on every distinct key, with the sum of its rows of `grads`. On failure
  // (memory) keys before the failing one were updated.
  Status Push(const GroupBatch& batch, Tick tick, const float* grads, GroupScratch& scratch)
      EXCLUDES(mutex_);

  // Deletes rows older than the table's time-to-live; returns their number.
  size_t EvictExpired(uint32_t now_s) EXCLUDES(mutex_);
  void AppendRanks(uint32_t step, std::vector<Rank>& ranks) EXCLUDES(mutex_);
  // Deletes those of `mixed` keys that exist; returns their number.
  size_t Evict(std::span<const uint64_t> mixed) EXCLUDES(mutex_);

  // Calls visit(row) for all rows with slots in [slot_begin, slot_end), by ascending mixed key.
  template <typename Visit>
  void VisitSlots(uint32_t slot_begin, uint32_t slot_end, Visit visit) EXCLUDES(mutex_);
  // False if the row does not exist.
  template <typename Visit>
  bool VisitRow(MixedKey mixed, Visit visit) EXCLUDES(mutex_);

  // Makes room for `rows` rows in all. Saved rows come by ascending mixed key: an index that grew
  // as they came would have all of them crowd in its front part, and each insertion walk through
  // them.
  Status ReserveRows(size_t rows) EXCLUDES(mutex_);
  // Puts a saved row in place, whatever was there.
  Status Import(const RowView& row) EXCLUDES(mutex_);
  // The same as a change of now: the row's LSN is the next one of its slot.
  Status Replace(const RowView& row) EXCLUDES(mutex_);
  void Clear() EXCLUDES(mutex_);

  using State = GroupState;
  // Forgets the slots as if they had never been here, with no tombstones.
  void DropSlots(uint32_t slot_begin, uint32_t slot_end) EXCLUDES(mutex_);

  State ExportState() EXCLUDES(mutex_);
  void ImportState(const State& state) EXCLUDES(mutex_);

  // From BeginCut, during which nothing changes, to EndCut the group can be read as it is now. Each
  // slot once: then its rows are not kept any longer. Without a cut, or if its memory is exceeded,
  // they fail (kUnavailable, kResourceExhausted).
  void BeginCut(CutMemory& memory) EXCLUDES(mutex_);
  void EndCut() EXCLUDES(mutex_);
  // As VisitSlots, for rows whose last change before the cut was after `since`, of the group's
  // slots; null takes all.
  template <typename Visit>
  Status VisitCut(uint32_t slot_begin, uint32_t slot_end, const Lsn* since, Visit visit)
      EXCLUDES(mutex_);
  Result<State> ExportCutState() EXCLUDES(mutex_);

  struct Size {
    size_t rows;
    size_t bytes;
    size_t candidates;
    size_t tombstones;
  };
  Size size() EXCLUDES(mutex_);

  // What belongs to the group rather than to its slots.
  struct Totals {
    Counters counters;
    uint64_t candidates_forgotten = 0;
    uint64_t tombstones_lost = 0;
    uint64_t operation = 0;
  };
  Totals totals() EXCLUDES(mutex_);
  // Adds those that slots bring along, or forgets the present ones.
  void AddTotals(const Totals& totals) EXCLUDES(mutex_);
  void ClearTotals() EXCLUDES(mutex_);

  // What happens to rows from here on is kept too, until it is taken.
  void StartLog() EXCLUDES(mutex_);
  void StopLog() EXCLUDES(mutex_);
  std::vector<std::byte> TakeLog() EXCLUDES(mutex_);
  // Changes that make a group without these slots hold what they hold: first what is beside rows;
  // then the rows, whose number is returned.
  void CopyState(uint32_t slot_begin, uint32_t slot_end, ChangeLog& to) EXCLUDES(mutex_);
  size_t CopyRows(uint32_t slot_begin, uint32_t slot_end, ChangeLog& to) EXCLUDES(mutex_);
  // Repeats changes of another store's group, those of `slots`. kInvalidArgument if they are none,
  // kResourceExhausted if memory ran out: some were repeated then.
  Status Repeat(std::span<const std::byte> changes, const SlotSet& slots) EXCLUDES(mutex_);
  // Hands slots over to another group of the same table and number, which has nothing of them; on
  // failure (memory) they are still here.
  Status GiveSlots(uint32_t slot_begin, uint32_t slot_end, SlotGroup& to) EXCLUDES(mutex_);

 private:
  Record At(Handle handle) const { return Record(records_.At(handle)); }
  bool IsKey(Handle handle, MixedKey mixed) const { return At(handle).low() == LowOf(mixed); }
  bool IsExpired(Record record, uint32_t now_s) const {
    return context_.spec.eviction.kind == EvictionSpec::Kind::kTtl && now_s > record.time_s() &&
           now_s - record.time_s() >= context_.spec.eviction.ttl_s;
  }
  void PrefetchRecord(Handle handle, size_t bytes) const {
    if (handle != kNoHandle) PrefetchBytes(records_.At(handle), bytes);
  }
  uint64_t KeyOf(MixedKey mixed) const { return UnmixKey(context_.spec.salt, mixed); }
  MixedKey Join(uint32_t tag, Handle handle) const {
    return JoinMixed(number_, tag, At(handle).low());
  }

  RowView ViewOf(MixedKey mixed, Record record) const {
    return {KeyOf(mixed),  SlotOf(mixed),   record.lsn(),    record.updates(),
            record.step(), record.time_s(), record.values(), record.state(context_.layout)};
  }

  Handle Find(MixedKey mixed) const REQUIRES_SHARED(mutex_);
  struct Entry {
    uint32_t tag;
    Handle handle;
  };
  // The rows of slots [slot_begin, slot_end) for which is_wanted(slot in group, LSN), by ascending
  // mixed key.
  template <typename IsWanted>
  std::vector<Entry> Entries(uint32_t slot_begin, uint32_t slot_end, IsWanted is_wanted) const
      REQUIRES_SHARED(mutex_);
  // Calls use(mixed key, record) for them in order, with prefetches running ahead.
  template <typename Use>
  void ForEachRecord(const std::vector<Entry>& entries, Use use) const;
  // Calls use(i, handle or kNoHandle) for the keys in order, with prefetches running ahead.
  template <typename Use>
  void FindAll(const MixedKey* keys, size_t count, size_t record_bytes, Use use) const
      REQUIRES(mutex_);

  Status Insert(MixedKey mixed, Tick tick, float* values, Handle& handle) REQUIRES(mutex_);
  void InitializeRecord(Handle handle, MixedKey mixed, Tick tick, float* values) REQUIRES(mutex_);
  // Sets `handle` to an existing, renewed or admitted row; to kNoHandle if admission holds the key
  // back. `values` is room for dim floats.
  Status FindOrAdmit(MixedKey mixed, Sighting sighting, Tick tick, float* values, Handle& handle)
      REQUIRES(mutex_);
  void Update(Handle handle, MixedKey mixed, Tick tick, const float* grad, float* values)
      REQUIRES(mutex_);
  // Fills scratch.distinct, ends and occurrences; returns the number of distinct keys.
  static size_t GroupOccurrences(const GroupBatch& batch, GroupScratch& scratch);
  void Delete(uint32_t tag, Handle handle) REQUIRES(mutex_);
  // Deletes without a trace.
  void Erase(uint32_t tag, Handle handle) REQUIRES(mutex_);
  Status Place(const RowView& row, MixedKey mixed, Lsn lsn) REQUIRES(mutex_);
  void AddTombstone(const Tombstone& tombstone) REQUIRES(mutex_);
  // Forgets rows, candidates and tombstones of the slots for which `is_in`.
  void EraseSlots(const std::function<bool(uint32_t)>& is_in) REQUIRES(mutex_);
  // The record of a key, to be written: made if it is not there; kNoHandle if memory ran out.
  Handle FindOrAllocate(MixedKey mixed) REQUIRES(mutex_);
  void LogRow(MixedKey mixed, Handle handle) REQUIRES(mutex_) {
    if (log_ != nullptr) log_->AddRow(mixed.bits, records_.At(handle), context_.layout.stride);
  }
  void LogCandidate(MixedKey mixed) REQUIRES(mutex_);
  std::vector<Entry> EntriesIn(uint32_t slot_begin, uint32_t slot_end) const
      REQUIRES_SHARED(mutex_) {
    return Entries(slot_begin, slot_end, [](uint32_t, Lsn) { return true; });
  }
  Status RepeatRow(ChangeReader& reader, const SlotSet& slots) REQUIRES(mutex_);
  Status RepeatOther(ChangeKind kind, ChangeReader& reader, const SlotSet& slots) REQUIRES(mutex_);
  void BeginOperation() REQUIRES(mutex_);
  Lsn NextLsn(uint32_t tag) REQUIRES(mutex_);
  State StateNow() const REQUIRES_SHARED(mutex_);
  // Before a row changes or goes, and before anything else of the group does.
  void KeepForCut(MixedKey mixed, Handle handle) REQUIRES(mutex_) {
    if (cut_ != nullptr) [[unlikely]]
      cut_->Keep(mixed, records_.At(handle));
  }
  void KeepStateForCut() REQUIRES(mutex_) {
    if (cut_ != nullptr && cut_->wants_state()) [[unlikely]]
      cut_->KeepState(StateNow());
  }
  Status CheckCut() const REQUIRES_SHARED(mutex_);

  TableContext& context_;
  const uint32_t number_;

  SharedMutex mutex_;
  Index index_ GUARDED_BY(mutex_);
  RecordPool records_;  // Guarded by mutex_ too; readers follow handles under the shared lock.
  Admission admission_ GUARDED_BY(mutex_);
  Counters counters_ GUARDED_BY(mutex_);
  Lsn slot_lsns_[kSlotsPerGroup] GUARDED_BY(mutex_) = {};
  uint64_t slots_raised_ GUARDED_BY(mutex_) = 0;  // Slots whose LSN this operation has raised.
  uint64_t operation_ GUARDED_BY(mutex_) = 0;
  std::vector<Tombstone> tombstones_ GUARDED_BY(mutex_);
  uint64_t tombstones_lost_ GUARDED_BY(mutex_) = 0;
  std::unique_ptr<ChangeLog> log_ GUARDED_BY(mutex_);  // Null unless changes are kept.
  std::unique_ptr<GroupCut> cut_ GUARDED_BY(mutex_);
};

template <typename IsWanted>
std::vector<SlotGroup::Entry> SlotGroup::Entries(uint32_t slot_begin, uint32_t slot_end,
                                                 IsWanted is_wanted) const {
  const uint32_t first = number_ * kSlotsPerGroup;
  slot_begin = std::clamp(slot_begin, first, first + kSlotsPerGroup);
  slot_end = std::clamp(slot_end, slot_begin, first + kSlotsPerGroup);
  if (slot_begin == slot_end) return {};
  std::vector<Entry> entries;
  constexpr uint32_t kTagsPerSlot = 1u << (32 - (kSlotBits - kGroupBits));
  index_.ForEachBetween((slot_begin - first) * kTagsPerSlot, (slot_end - first) * kTagsPerSlot - 1,
                        [&](uint32_t tag, Handle handle) { entries.push_back({tag, handle}); });
  size_t wanted = 0;
  for (size_t i = 0; i < entries.size(); ++i) {
    if (i + kAhead < entries.size()) PrefetchRecord(entries[i + kAhead].handle, 1);
    const Entry entry = entries[i];
    if (is_wanted(SlotInGroup(entry.tag), At(entry.handle).lsn())) entries[wanted++] = entry;
  }
  entries.resize(wanted);
  // Records lie anywhere in memory: only where tags are equal does the order look at them.
  std::sort(entries.begin(), entries.end(), [this](const Entry& a, const Entry& b) {
    return a.tag != b.tag ? a.tag < b.tag : At(a.handle).low() < At(b.handle).low();
  });
  return entries;
}

template <typename Use>
void SlotGroup::ForEachRecord(const std::vector<Entry>& entries, Use use) const {
  for (size_t i = 0; i < entries.size(); ++i) {
    if (i + kAhead < entries.size()) {
      PrefetchRecord(entries[i + kAhead].handle, context_.layout.stride);
    }
    use(Join(entries[i].tag, entries[i].handle), At(entries[i].handle));
  }
}

template <typename Visit>
void SlotGroup::VisitSlots(uint32_t slot_begin, uint32_t slot_end, Visit visit) {
  ReaderLock lock(mutex_);
  ForEachRecord(EntriesIn(slot_begin, slot_end),
                [&](MixedKey mixed, Record record) { visit(ViewOf(mixed, record)); });
}

template <typename Visit>
Status SlotGroup::VisitCut(uint32_t slot_begin, uint32_t slot_end, const Lsn* since, Visit visit) {
  const auto is_wanted = [&](uint32_t slot_in_group, Lsn lsn) NO_THREAD_SAFETY_ANALYSIS {
    return cut_->IsOf(slot_in_group, lsn) && (since == nullptr || lsn > since[slot_in_group]);
  };
  {
    ReaderLock lock(mutex_);
    EMBERY_RETURN_IF_ERROR(CheckCut());
    if (cut_->is_saved(slot_begin, slot_end)) {
      return Status::InvalidArgument("slots " + std::to_string(slot_begin) + " to " +
                                     std::to_string(slot_end - 1) + " were saved before");
    }
    const std::vector<GroupCut::Image> images = cut_->Images(slot_begin, slot_end);
    auto image = images.begin();
    const auto visit_image = [&] {
      const Record record(const_cast<std::byte*>(image->record));
      if (is_wanted(SlotInGroup(TagOf(image->mixed)), record.lsn())) {
        visit(ViewOf(image->mixed, record));
      }
      ++image;
    };
    ForEachRecord(Entries(slot_begin, slot_end, is_wanted), [&](MixedKey mixed, Record record) {
      while (image != images.end() && image->mixed.bits < mixed.bits) visit_image();
      visit(ViewOf(mixed, record));
    });
    while (image != images.end()) visit_image();
  }
  WriterLock lock(mutex_);
  if (cut_ != nullptr) cut_->Saved(slot_begin, slot_end);
  return Status::Ok();
}

template <typename Visit>
bool SlotGroup::VisitRow(MixedKey mixed, Visit visit) {
  ReaderLock lock(mutex_);
  const Handle handle = Find(mixed);
  if (handle == kNoHandle) return false;
  visit(ViewOf(mixed, At(handle)));
  return true;
}

}  // namespace embery
