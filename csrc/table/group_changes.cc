// A group's changes, kept as bytes and repeated elsewhere; and slots that change hands at home.
#include <algorithm>
#include <cstring>
#include <functional>
#include <string>
#include <utility>

#include "table/group.h"

namespace embery {
namespace {

// Entries of a growing index that repeating moves, as an operation does.
constexpr size_t kMigratePerRepeat = 65536;

// Locks two groups, in the order that all threads keep.
class PairLock {
 public:
  PairLock(SharedMutex& a, SharedMutex& b) NO_THREAD_SAFETY_ANALYSIS
      : first_(std::less<>()(&a, &b) ? a : b),
        second_(std::less<>()(&a, &b) ? b : a) {
    first_.Lock();
    second_.Lock();
  }
  ~PairLock() NO_THREAD_SAFETY_ANALYSIS {
    second_.Unlock();
    first_.Unlock();
  }
  PairLock(const PairLock&) = delete;
  PairLock& operator=(const PairLock&) = delete;

 private:
  SharedMutex& first_;
  SharedMutex& second_;
};

}  // namespace

void SlotGroup::StartLog() {
  WriterLock lock(mutex_);
  if (log_ == nullptr) log_ = std::make_unique<ChangeLog>();
}

void SlotGroup::StopLog() {
  WriterLock lock(mutex_);
  log_.reset();
}

std::vector<std::byte> SlotGroup::TakeLog() {
  WriterLock lock(mutex_);
  return log_ == nullptr ? std::vector<std::byte>() : log_->Take();
}

void SlotGroup::LogCandidate(MixedKey mixed) {
  if (log_ == nullptr || !admission_.counts()) return;
  if (const std::optional<Candidate> candidate = admission_.Find(mixed.bits)) {
    log_->AddCandidate(*candidate);
  } else {
    log_->AddAdmitted(mixed.bits);
  }
}

void SlotGroup::CopyState(uint32_t slot_begin, uint32_t slot_end, ChangeLog& to) {
  ReaderLock lock(mutex_);
  const auto is_in = [&](uint64_t mixed) {
    const uint32_t slot = SlotOf({mixed});
    return slot >= slot_begin && slot < slot_end;
  };
  for (uint32_t slot = slot_begin; slot < slot_end; ++slot) {
    to.AddSlot(slot_lsns_[slot % kSlotsPerGroup], slot);
  }
  for (const Tombstone& tombstone : tombstones_) {
    if (is_in(tombstone.mixed)) to.AddDeletion(tombstone.mixed, tombstone.lsn);
  }
  for (const Candidate& candidate : admission_.Export()) {
    if (is_in(candidate.mixed)) to.AddCandidate(candidate);
  }
}

size_t SlotGroup::CopyRows(uint32_t slot_begin, uint32_t slot_end, ChangeLog& to) {
  ReaderLock lock(mutex_);
  const std::vector<Entry> entries = EntriesIn(slot_begin, slot_end);
  ForEachRecord(entries, [&](MixedKey mixed, Record record) {
    to.AddRow(mixed.bits, record.data(), context_.layout.stride);
  });
  return entries.size();
}

Status SlotGroup::Repeat(std::span<const std::byte> changes, const SlotSet& slots) {
  WriterLock lock(mutex_);
  index_.Migrate(kMigratePerRepeat);
  ChangeReader reader(changes);
  while (!reader.done()) {
    ChangeKind kind = ChangeKind::kRow;
    EMBERY_RETURN_IF_ERROR(reader.ReadKind(kind));
    EMBERY_RETURN_IF_ERROR(kind == ChangeKind::kRow ? RepeatRow(reader, slots)
                                                    : RepeatOther(kind, reader, slots));
  }
  return Status::Ok();
}

Status SlotGroup::RepeatRow(ChangeReader& reader, const SlotSet& slots) {
  MixedKey mixed{};
  const std::byte* record = nullptr;
  EMBERY_RETURN_IF_ERROR(reader.Read(mixed.bits));
  EMBERY_RETURN_IF_ERROR(reader.View(context_.layout.stride, record));
  const uint32_t slot = SlotOf(mixed);
  if (GroupOf(mixed) != number_ || !slots.Contains(slot)) return Status::Ok();
  const Handle handle = FindOrAllocate(mixed);
  if (handle == kNoHandle) {
    return Status::ResourceExhausted("table '" + context_.spec.name +
                                     "': no memory for the copy of a row");
  }
  std::memcpy(records_.At(handle), record, context_.layout.stride);
  // What a damaged record says of its key would make it another one's.
  At(handle).SetKeyAndLsn(LowOf(mixed), At(handle).lsn());
  Lsn& reached = slot_lsns_[slot % kSlotsPerGroup];
  reached = std::max(reached, At(handle).lsn());
  return Status::Ok();
}

Status SlotGroup::RepeatOther(ChangeKind kind, ChangeReader& reader, const SlotSet& slots) {
  const auto is_mine = [&](uint64_t mixed) {
    return GroupOf({mixed}) == number_ && slots.Contains(SlotOf({mixed}));
  };
  Tombstone deleted{};
  Candidate candidate{};
  uint32_t slot = 0;
  Lsn lsn = 0;
  switch (kind) {
    case ChangeKind::kDeletion: {
      EMBERY_RETURN_IF_ERROR(reader.Read(deleted.mixed, deleted.lsn));
      if (!is_mine(deleted.mixed)) return Status::Ok();
      const Handle handle = Find({deleted.mixed});
      // One that came back since is newer, or, in the same operation, as new.
      if (handle != kNoHandle && At(handle).lsn() < deleted.lsn) {
        index_.Erase(TagOf({deleted.mixed}), handle);
        records_.Free(handle);
      }
      AddTombstone(deleted);
      Lsn& reached = slot_lsns_[SlotOf({deleted.mixed}) % kSlotsPerGroup];
      reached = std::max(reached, deleted.lsn);
      return Status::Ok();
    }
    case ChangeKind::kCandidate:
      EMBERY_RETURN_IF_ERROR(reader.Read(candidate.mixed, candidate.last_operation, candidate.pulls,
                                         candidate.pushes));
      if (is_mine(candidate.mixed)) admission_.Import(candidate);
      return Status::Ok();
    case ChangeKind::kAdmitted:
      EMBERY_RETURN_IF_ERROR(reader.Read(candidate.mixed));
      if (is_mine(candidate.mixed)) admission_.Forget(candidate.mixed);
      return Status::Ok();
    case ChangeKind::kSlot:
      EMBERY_RETURN_IF_ERROR(reader.Read(lsn, slot));
      if (slot / kSlotsPerGroup == number_ && slots.Contains(slot)) {
        Lsn& reached = slot_lsns_[slot % kSlotsPerGroup];
        reached = std::max(reached, lsn);
      }
      return Status::Ok();
    case ChangeKind::kCleared:
      EraseSlots([&](uint32_t of) { return slots.Contains(of); });
      return Status::Ok();
    case ChangeKind::kRow:
      break;
  }
  return Status::Ok();
}

Status SlotGroup::GiveSlots(uint32_t slot_begin, uint32_t slot_end,
                            SlotGroup& to) NO_THREAD_SAFETY_ANALYSIS {
  const PairLock lock(mutex_, to.mutex_);
  const auto is_in = [&](uint32_t slot) { return slot >= slot_begin && slot < slot_end; };
  const std::vector<Entry> entries = EntriesIn(slot_begin, slot_end);
  if (!to.index_.Reserve(entries.size())) {
    return Status::ResourceExhausted("table '" + context_.spec.name +
                                     "': no memory for the index of slots that change hands");
  }
  KeepStateForCut();
  to.KeepStateForCut();
  // Records stay where they are: handles are the table's.
  for (const Entry& entry : entries) {
    KeepForCut(Join(entry.tag, entry.handle), entry.handle);
    index_.Erase(entry.tag, entry.handle);
    to.index_.Insert(entry.tag, entry.handle);
  }
  for (const Candidate& candidate : admission_.Export()) {
    if (!is_in(SlotOf({candidate.mixed}))) continue;
    to.admission_.Import(candidate);
    admission_.Forget(candidate.mixed);
  }
  for (const Tombstone& tombstone : tombstones_) {
    if (is_in(SlotOf({tombstone.mixed}))) to.AddTombstone(tombstone);
  }
  std::erase_if(tombstones_, [&](const Tombstone& t) { return is_in(SlotOf({t.mixed})); });
  for (uint32_t slot = slot_begin; slot < slot_end; ++slot) {
    to.slot_lsns_[slot % kSlotsPerGroup] = std::exchange(slot_lsns_[slot % kSlotsPerGroup], Lsn{0});
  }
  return Status::Ok();
}

}  // namespace embery
