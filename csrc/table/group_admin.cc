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

void SlotGroup::Delete(uint32_t tag, Handle handle) {
  const MixedKey mixed = Join(tag, handle);
  index_.Erase(tag, handle);
  records_.Free(handle);
  if (tombstones_.size() >= kTombstonesMax) {
    const size_t half = tombstones_.size() / 2;
    tombstones_lost_ += half;
    tombstones_.erase(tombstones_.begin(), tombstones_.begin() + static_cast<ptrdiff_t>(half));
  }
  tombstones_.push_back({mixed.bits, NextLsn(tag)});
  ++counters_.deleted;
}

size_t SlotGroup::EvictExpired(uint32_t now_s) {
  WriterLock lock(mutex_);
  struct Entry {
    uint32_t tag;
    Handle handle;
  };
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
  const MixedKey mixed = MixKey(context_.spec.salt, row.key);
  Handle handle = Find(mixed);
  if (handle == kNoHandle) {
    if (index_.Reserve(1)) handle = records_.Allocate();
    if (handle == kNoHandle) {
      return Status::ResourceExhausted("table '" + context_.spec.name +
                                       "': no memory for the rows to restore");
    }
    index_.Insert(TagOf(mixed), handle);
  }
  Record record = At(handle);
  std::memcpy(record.values(), row.values, context_.layout.value_bytes);
  // Not memcpy: the state of an optimizer that has none may be a null pointer.
  std::copy_n(row.state, context_.layout.state_floats, record.state(context_.layout));
  record.SetTouched(row.step, row.time_s);
  record.SetKeyAndLsn(LowOf(mixed), row.lsn);
  record.SetUpdates(row.updates);
  return Status::Ok();
}

void SlotGroup::Clear() {
  WriterLock lock(mutex_);
  std::vector<Handle> handles;
  index_.ForEach([&](uint32_t, Handle handle) { handles.push_back(handle); });
  for (const Handle handle : handles) records_.Free(handle);
  index_.Clear();
  admission_ = Admission(context_.spec.admission);
  tombstones_.clear();
  counters_.deleted += handles.size();
}

void SlotGroup::EraseRows(std::span<const uint64_t> mixed_keys) {
  WriterLock lock(mutex_);
  for (const uint64_t bits : mixed_keys) {
    const Handle handle = Find({bits});
    if (handle == kNoHandle) continue;
    index_.Erase(TagOf({bits}), handle);
    records_.Free(handle);
  }
}

SlotGroup::State SlotGroup::ExportSlots(uint32_t slot_begin, uint32_t slot_end,
                                        GroupCounters counters) {
  State state = ExportState();
  const auto is_out = [&](uint64_t mixed) {
    const uint32_t slot = SlotOf({mixed});
    return slot < slot_begin || slot >= slot_end;
  };
  std::erase_if(state.candidates, [&](const Candidate& c) { return is_out(c.mixed); });
  std::erase_if(state.tombstones, [&](const Tombstone& t) { return is_out(t.mixed); });
  for (uint32_t i = 0; i < kSlotsPerGroup; ++i) {
    const uint32_t slot = number_ * kSlotsPerGroup + i;
    if (slot < slot_begin || slot >= slot_end) state.slot_lsns[i] = 0;
  }
  if (counters == GroupCounters::kStay) {
    state.counters = {};
    state.tombstones_lost = 0;
    state.candidates_forgotten = 0;
  }
  return state;
}

void SlotGroup::MergeSlots(uint32_t slot_begin, uint32_t slot_end, const State& state) {
  WriterLock lock(mutex_);
  for (uint32_t slot = slot_begin; slot < slot_end; ++slot) {
    const uint32_t i = slot % kSlotsPerGroup;
    slot_lsns_[i] = std::max(slot_lsns_[i], state.slot_lsns[i]);
  }
  for (const Candidate& candidate : state.candidates) admission_.Import(candidate);
  tombstones_.insert(tombstones_.end(), state.tombstones.begin(), state.tombstones.end());
  counters_.Add(state.counters);
  tombstones_lost_ += state.tombstones_lost;
  admission_.set_forgotten(admission_.forgotten() + state.candidates_forgotten);
  operation_ = std::max(operation_, state.operation);
}

void SlotGroup::DropSlots(uint32_t slot_begin, uint32_t slot_end, GroupCounters counters) {
  WriterLock lock(mutex_);
  const auto is_in = [&](uint32_t slot) { return slot >= slot_begin && slot < slot_end; };
  struct Entry {
    uint32_t tag;
    Handle handle;
  };
  std::vector<Entry> entries;
  index_.ForEach([&](uint32_t tag, Handle handle) {
    if (is_in(SlotOf(JoinMixed(number_, tag, 0)))) entries.push_back({tag, handle});
  });
  for (const Entry& entry : entries) {
    index_.Erase(entry.tag, entry.handle);
    records_.Free(entry.handle);
  }
  std::vector<Candidate> candidates = admission_.Export();
  const uint64_t forgotten = counters == GroupCounters::kMove ? 0 : admission_.forgotten();
  admission_ = Admission(context_.spec.admission);
  for (const Candidate& candidate : candidates) {
    if (!is_in(SlotOf({candidate.mixed}))) admission_.Import(candidate);
  }
  admission_.set_forgotten(forgotten);
  std::erase_if(tombstones_, [&](const Tombstone& t) { return is_in(SlotOf({t.mixed})); });
  for (uint32_t slot = slot_begin; slot < slot_end; ++slot) slot_lsns_[slot % kSlotsPerGroup] = 0;
  if (counters == GroupCounters::kMove) {
    counters_ = {};
    tombstones_lost_ = 0;
  }
}

SlotGroup::State SlotGroup::ExportState() {
  ReaderLock lock(mutex_);
  return {counters_,           std::vector<Lsn>(slot_lsns_, slot_lsns_ + kSlotsPerGroup),
          admission_.Export(), tombstones_,
          tombstones_lost_,    admission_.forgotten(),
          operation_};
}

void SlotGroup::ImportState(const State& state) {
  WriterLock lock(mutex_);
  counters_ = state.counters;
  std::copy(state.slot_lsns.begin(), state.slot_lsns.end(), slot_lsns_);
  admission_ = Admission(context_.spec.admission);
  for (const Candidate& candidate : state.candidates) admission_.Import(candidate);
  admission_.set_forgotten(state.candidates_forgotten);
  tombstones_ = state.tombstones;
  tombstones_lost_ = state.tombstones_lost;
  operation_ = state.operation;
}

SlotGroup::Size SlotGroup::size() {
  ReaderLock lock(mutex_);
  return {index_.size(), index_.bytes() + records_.bytes(), admission_.size(), tombstones_.size()};
}

SlotGroup::Totals SlotGroup::totals() {
  ReaderLock lock(mutex_);
  return {counters_, admission_.forgotten(), tombstones_lost_};
}

}  // namespace embery
