// What happens to a group's rows besides training: eviction, saving, restoring.
#include <algorithm>
#include <cstring>
#include <string>

#include "table/group.h"

namespace embery {
namespace {

// Of one group. Beyond, the oldest half is forgotten: the next checkpoint has to be a full one.
constexpr size_t kTombstonesMax = size_t{1} << 18;

}  // namespace

void SlotGroup::Erase(uint32_t tag, Handle handle) {
  KeepForCut(Join(tag, handle), handle);
  index_.Erase(tag, handle);
  records_.Free(handle);
}

void SlotGroup::Delete(uint32_t tag, Handle handle) {
  const MixedKey mixed = Join(tag, handle);
  Erase(tag, handle);
  AddTombstone({mixed.bits, NextLsn(tag)});
  ++counters_.deleted;
  if (log_ != nullptr) log_->AddDeletion(mixed.bits, tombstones_.back().lsn);
}

void SlotGroup::AddTombstone(const Tombstone& tombstone) {
  if (tombstones_.size() >= kTombstonesMax) {
    const size_t half = tombstones_.size() / 2;
    tombstones_lost_ += half;
    tombstones_.erase(tombstones_.begin(), tombstones_.begin() + static_cast<ptrdiff_t>(half));
  }
  tombstones_.push_back(tombstone);
}

size_t SlotGroup::EvictExpired(uint32_t now_s) {
  WriterLock lock(mutex_);
  std::vector<Entry> expired;
  index_.ForEach([&](uint32_t tag, Handle handle) {
    if (IsExpired(At(handle), now_s)) expired.push_back({tag, handle});
  });
  BeginOperation();
  for (const Entry& entry : expired) Delete(entry.tag, entry.handle);
  counters_.evicted += expired.size();
  return expired.size();
}

void SlotGroup::AppendRanks(uint32_t step, std::vector<Rank>& ranks) {
  ReaderLock lock(mutex_);
  const bool frequency = context_.spec.eviction.kind == EvictionSpec::Kind::kLfu;
  index_.ForEach([&](uint32_t tag, Handle handle) {
    const Record record = At(handle);
    const uint64_t mixed = Join(tag, handle).bits;
    if (frequency) {
      // Rows of the step under way had no time to be used often: they go last.
      const uint64_t current = record.step() >= step ? uint64_t{1} << 32 : 0;
      ranks.push_back({current + record.updates(), record.step(), mixed});
    } else {
      ranks.push_back({record.step(), 0, mixed});
    }
  });
}

size_t SlotGroup::Evict(std::span<const uint64_t> mixed_keys) {
  WriterLock lock(mutex_);
  BeginOperation();
  size_t evicted = 0;
  for (const uint64_t bits : mixed_keys) {
    const MixedKey mixed{bits};
    const Handle handle = Find(mixed);
    if (handle == kNoHandle) continue;
    Delete(TagOf(mixed), handle);
    ++evicted;
  }
  counters_.evicted += evicted;
  return evicted;
}

Status SlotGroup::ReserveRows(size_t rows) {
  WriterLock lock(mutex_);
  if (rows <= index_.size() || index_.Reserve(rows - index_.size())) return Status::Ok();
  return Status::ResourceExhausted("table '" + context_.spec.name +
                                   "': no memory for the index of " + std::to_string(rows) +
                                   " rows to restore");
}

Status SlotGroup::Import(const RowView& row) {
  WriterLock lock(mutex_);
  return Place(row, MixKey(context_.spec.salt, row.key), row.lsn);
}

Status SlotGroup::Replace(const RowView& row) {
  WriterLock lock(mutex_);
  BeginOperation();
  const MixedKey mixed = MixKey(context_.spec.salt, row.key);
  return Place(row, mixed, NextLsn(TagOf(mixed)));
}

Status SlotGroup::Place(const RowView& row, MixedKey mixed, Lsn lsn) {
  const Handle handle = FindOrAllocate(mixed);
  if (handle == kNoHandle) {
    return Status::ResourceExhausted("table '" + context_.spec.name +
                                     "': no memory for the rows to restore");
  }
  Record record = At(handle);
  std::memcpy(record.values(), row.values, context_.layout.value_bytes);
  // Not memcpy: the state of an optimizer that has none may be a null pointer.
  std::copy_n(row.state, context_.layout.state_floats, record.state(context_.layout));
  record.SetTouched(row.step, row.time_s);
  record.SetKeyAndLsn(LowOf(mixed), lsn);
  record.SetUpdates(row.updates);
  LogRow(mixed, handle);
  return Status::Ok();
}

Handle SlotGroup::FindOrAllocate(MixedKey mixed) {
  Handle handle = Find(mixed);
  if (handle != kNoHandle) KeepForCut(mixed, handle);
  if (handle != kNoHandle || !index_.Reserve(1)) return handle;
  handle = records_.Allocate();
  if (handle != kNoHandle) index_.Insert(TagOf(mixed), handle);
  return handle;
}

void SlotGroup::Clear() {
  WriterLock lock(mutex_);
  KeepStateForCut();
  size_t rows = 0;
  index_.ForEach([&](uint32_t tag, Handle handle) NO_THREAD_SAFETY_ANALYSIS {
    KeepForCut(Join(tag, handle), handle);
    records_.Free(handle);
    ++rows;
  });
  index_.Clear();
  admission_ = Admission(context_.spec.admission);
  tombstones_.clear();
  counters_.deleted += rows;
  if (log_ != nullptr) log_->AddCleared();
}

void SlotGroup::DropSlots(uint32_t slot_begin, uint32_t slot_end) {
  WriterLock lock(mutex_);
  KeepStateForCut();
  EraseSlots([&](uint32_t slot) { return slot >= slot_begin && slot < slot_end; });
  for (uint32_t slot = slot_begin; slot < slot_end; ++slot) slot_lsns_[slot % kSlotsPerGroup] = 0;
}

void SlotGroup::EraseSlots(const std::function<bool(uint32_t)>& is_in) {
  const uint32_t first = number_ * kSlotsPerGroup;
  for (const Entry& entry : EntriesIn(first, first + kSlotsPerGroup)) {
    if (is_in(SlotOf(JoinMixed(number_, entry.tag, 0)))) Erase(entry.tag, entry.handle);
  }
  for (const Candidate& candidate : admission_.Export()) {
    if (is_in(SlotOf({candidate.mixed}))) admission_.Forget(candidate.mixed);
  }
  std::erase_if(tombstones_, [&](const Tombstone& t) { return is_in(SlotOf({t.mixed})); });
}

SlotGroup::State SlotGroup::ExportState() {
  ReaderLock lock(mutex_);
  return StateNow();
}

SlotGroup::State SlotGroup::StateNow() const {
  return {counters_,           std::vector<Lsn>(slot_lsns_, slot_lsns_ + kSlotsPerGroup),
          admission_.Export(), tombstones_,
          tombstones_lost_,    admission_.forgotten(),
          operation_};
}

void SlotGroup::ImportState(const State& state) {
  WriterLock lock(mutex_);
  KeepStateForCut();
  counters_ = state.counters;
  std::copy(state.slot_lsns.begin(), state.slot_lsns.end(), slot_lsns_);
  admission_ = Admission(context_.spec.admission);
  for (const Candidate& candidate : state.candidates) admission_.Import(candidate);
  admission_.set_forgotten(state.candidates_forgotten);
  tombstones_ = state.tombstones;
  tombstones_lost_ = state.tombstones_lost;
  operation_ = state.operation;
  if (log_ == nullptr) return;
  for (uint32_t i = 0; i < kSlotsPerGroup; ++i) {
    log_->AddSlot(slot_lsns_[i], number_ * kSlotsPerGroup + i);
  }
  for (const Candidate& candidate : state.candidates) log_->AddCandidate(candidate);
  for (const Tombstone& tombstone : state.tombstones) {
    log_->AddDeletion(tombstone.mixed, tombstone.lsn);
  }
}

// ---- a cut --------------------------------------------------------------------------------------

void SlotGroup::BeginCut(CutMemory& memory) {
  WriterLock lock(mutex_);
  cut_ = std::make_unique<GroupCut>(memory, slot_lsns_, context_.layout.stride);
}

void SlotGroup::EndCut() {
  WriterLock lock(mutex_);
  cut_.reset();
}

Status SlotGroup::CheckCut() const {
  if (cut_ == nullptr) {
    return Status::Unavailable("table '" + context_.spec.name +
                               "': the cut that was being saved has ended; begin another");
  }
  return cut_->Check();
}

Result<SlotGroup::State> SlotGroup::ExportCutState() {
  ReaderLock lock(mutex_);
  const Status status = CheckCut();
  if (!status.ok()) return status;
  return cut_->state().has_value() ? *cut_->state() : StateNow();
}

SlotGroup::Size SlotGroup::size() {
  ReaderLock lock(mutex_);
  return {index_.size(), index_.bytes() + records_.bytes(), admission_.size(), tombstones_.size()};
}

SlotGroup::Totals SlotGroup::totals() {
  ReaderLock lock(mutex_);
  return {counters_, admission_.forgotten(), tombstones_lost_, operation_};
}

void SlotGroup::AddTotals(const Totals& totals) {
  WriterLock lock(mutex_);
  KeepStateForCut();
  counters_.Add(totals.counters);
  admission_.set_forgotten(admission_.forgotten() + totals.candidates_forgotten);
  tombstones_lost_ += totals.tombstones_lost;
  operation_ = std::max(operation_, totals.operation);
}

void SlotGroup::ClearTotals() {
  WriterLock lock(mutex_);
  KeepStateForCut();
  counters_ = {};
  admission_.set_forgotten(0);
  tombstones_lost_ = 0;
}

}  // namespace embery
