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

struct Counters {
  uint64_t admitted = 0;    // Rows inserted by pulls and pushes.
  uint64_t rejected = 0;    // Distinct keys of pushes that admission held back.
  uint64_t evicted = 0;     // Rows deleted by eviction, or started anew after their time-to-live.
  uint64_t deleted = 0;     // Rows deleted, for whatever reason, or started anew.
  uint64_t non_finite = 0;  // Distinct keys of pushes whose gradient was not finite.
  uint64_t updates = 0;     // Optimizer steps on rows.

  void Add(const Counters& other) {
    admitted += other.admitted;
    rejected += other.rejected;
    evicted += other.evicted;
    deleted += other.deleted;
    non_finite += other.non_finite;
    updates += other.updates;
  }
};

struct Tombstone {
  uint64_t mixed;
  Lsn lsn;
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
  void Clear() EXCLUDES(mutex_);

  struct State {
    Counters counters;
    std::vector<Lsn> slot_lsns;  // One a slot of the group.
    std::vector<Candidate> candidates;
    std::vector<Tombstone> tombstones;
    uint64_t tombstones_lost = 0;
    uint64_t candidates_forgotten = 0;
    uint64_t operation = 0;
  };
  // Forgets the slots as if they had never been here, with no tombstones.
  void DropSlots(uint32_t slot_begin, uint32_t slot_end) EXCLUDES(mutex_);

  State ExportState() EXCLUDES(mutex_);
  void ImportState(const State& state) EXCLUDES(mutex_);

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

  Handle Find(MixedKey mixed) const REQUIRES_SHARED(mutex_);
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
  void AddTombstone(const Tombstone& tombstone) REQUIRES(mutex_);
  // Forgets rows, candidates and tombstones of the slots for which `is_in`.
  void EraseSlots(const std::function<bool(uint32_t)>& is_in) REQUIRES(mutex_);
  // The record of a key, made if it is not there; kNoHandle if memory ran out.
  Handle FindOrAllocate(MixedKey mixed) REQUIRES(mutex_);
  void LogRow(MixedKey mixed, Handle handle) REQUIRES(mutex_) {
    if (log_ != nullptr) log_->AddRow(mixed.bits, records_.At(handle), context_.layout.stride);
  }
  void LogCandidate(MixedKey mixed) REQUIRES(mutex_);
  struct Entry {
    uint32_t tag;
    Handle handle;
  };
  std::vector<Entry> EntriesIn(uint32_t slot_begin, uint32_t slot_end) const
      REQUIRES_SHARED(mutex_);
  Status RepeatRow(ChangeReader& reader, const SlotSet& slots) REQUIRES(mutex_);
  Status RepeatOther(ChangeKind kind, ChangeReader& reader, const SlotSet& slots) REQUIRES(mutex_);
  void BeginOperation() REQUIRES(mutex_);
  Lsn NextLsn(uint32_t tag) REQUIRES(mutex_);

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
};

template <typename Visit>
void SlotGroup::VisitSlots(uint32_t slot_begin, uint32_t slot_end, Visit visit) {
  ReaderLock lock(mutex_);
  std::vector<Entry> entries = EntriesIn(slot_begin, slot_end);
  // Records lie anywhere in memory: only where tags are equal does the order look at them.
  std::sort(entries.begin(), entries.end(), [this](const Entry& a, const Entry& b) {
    return a.tag != b.tag ? a.tag < b.tag : At(a.handle).low() < At(b.handle).low();
  });
  for (size_t i = 0; i < entries.size(); ++i) {
    if (i + kAhead < entries.size()) {
      PrefetchRecord(entries[i + kAhead].handle, context_.layout.stride);
    }
    const Entry& entry = entries[i];
    const MixedKey mixed = Join(entry.tag, entry.handle);
    const Record record = At(entry.handle);
    visit(RowView{KeyOf(mixed), SlotOf(mixed), record.lsn(), record.updates(), record.step(),
                  record.time_s(), record.values(), record.state(context_.layout)});
  }
}

template <typename Visit>
bool SlotGroup::VisitRow(MixedKey mixed, Visit visit) {
  ReaderLock lock(mutex_);
  const Handle handle = Find(mixed);
  if (handle == kNoHandle) return false;
  const Record record = At(handle);
  visit(RowView{KeyOf(mixed), SlotOf(mixed), record.lsn(), record.updates(), record.step(),
                record.time_s(), record.values(), record.state(context_.layout)});
  return true;
}

}  // namespace embery
