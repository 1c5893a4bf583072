#include "server/copies.h"

#include <algorithm>
#include <cstring>
#include <string>

namespace embery {
namespace {

// The slots that a kBegin is about.
Result<CopyRange> RangeOf(const CopyItem& item) {
  CopyRange range{};
  if (item.bytes.size() < sizeof(range)) return MalformedCopy("a range is cut off");
  std::memcpy(&range, item.bytes.data(), sizeof(range));
  if (range.begin >= range.end || range.end > kSlotCount) return MalformedCopy("a range is none");
  return range;
}

}  // namespace

void Copies::AddTable(uint64_t salt, TableId table) {
  const MutexLock lock(mutex_);
  tables_[salt] = table;
}

SlotSet Copies::slots() {
  const MutexLock lock(mutex_);
  SlotSet slots;
  for (const auto& [number, source] : sources_) slots.Add(source.slots);
  return slots;
}

void Copies::RetireLeases(uint64_t before) {
  const MutexLock lock(mutex_);
  for (auto& [number, source] : sources_) source.applied.RetireLeases(before);
}

Result<TableId> Copies::FindTable(uint64_t salt) const {
  const auto at = tables_.find(salt);
  if (at != tables_.end()) return at->second;
  return Status(StatusCode::kTableNotFound, "server " + std::to_string(number_) +
                                                " has no table of salt " + std::to_string(salt) +
                                                " to keep a copy of");
}

// ---- frames -------------------------------------------------------------------------------------

bool Copies::Owns(ServerNumber source, const SlotSet& slots, const SlotRouting& routing) {
  bool owns = true;
  slots.ForEach([&](uint32_t slot) { owns = owns && routing.owners[slot] == source; });
  return owns;
}

Result<Copies::Verdict> Copies::CheckOwner(const CopyFrame& frame,
                                           const SlotRouting& routing) const {
  const auto source = static_cast<ServerNumber>(frame.head.server);
  for (const CopyItem& item : frame.items) {
    if (item.kind != CopyKind::kPushes) continue;
    const auto pushes = item.As<AppliedPush>();
    if (!pushes.ok()) return pushes.status();
    for (const AppliedPush& push : pushes.value()) {
      if (!Owns(source, push.slots, routing)) return Verdict::kRefused;
    }
  }
  return Verdict::kRepeated;
}

Result<Copies::Verdict> Copies::Repeat(const CopyFrame& frame, const SlotRouting& routing) {
  if (frame.head.server >= kNoServer || frame.head.server == number_) {
    return MalformedCopy("it is of no other server");
  }
  if (frame.head.routing_version > routing.version) {
    return Status::Unavailable("routing " + std::to_string(frame.head.routing_version) +
                               " is not known here yet, only " + std::to_string(routing.version));
  }
  Result<Verdict> verdict = CheckOwner(frame, routing);
  if (!verdict.ok() || verdict.value() == Verdict::kRefused) return verdict;
  const MutexLock lock(mutex_);
  Source& source = sources_[static_cast<ServerNumber>(frame.head.server)];
  if (frame.head.frame <= source.last_frame) return Verdict::kRepeated;  // It came again.
  for (const CopyItem& item : frame.items) {
    EMBERY_RETURN_IF_ERROR(RepeatItem(item, frame, routing, source));
  }
  source.last_frame = frame.head.frame;
  return Verdict::kRepeated;
}

Status Copies::RepeatItem(const CopyItem& item, const CopyFrame& frame, const SlotRouting& routing,
                          Source& source) {
  if (item.group >= kGroupCount) return MalformedCopy("there is no such group");
  switch (item.kind) {
    case CopyKind::kBegin: {
      const Result<CopyRange> range = RangeOf(item);
      if (!range.ok()) return range.status();
      // A copy that began by an older routing was ended by the next.
      const bool is_present = frame.head.routing_version == routing.version &&
                              Owns(static_cast<ServerNumber>(frame.head.server),
                                   SlotSet::Range(range.value().begin, range.value().end), routing);
      return is_present ? Begin(item, source) : Status::Ok();
    }
    case CopyKind::kPushes:
      return RepeatPushes(item, frame.head.routing_version, routing, source);
    default:
      break;
  }
  const Result<TableId> id = FindTable(item.salt);
  if (!id.ok()) return id.status();
  if (item.kind == CopyKind::kChanges) {
    return store_.FindTable(id.value())->copies(item.group).Repeat(item.bytes, source.slots);
  }
  if (item.kind == CopyKind::kTotals) {
    const auto totals = item.As<SlotGroup::Totals>();
    if (!totals.ok() || totals.value().size() != 1) return MalformedCopy("totals are cut off");
    source.totals[{id.value(), item.group}] = totals.value()[0];
    return Status::Ok();
  }
  const auto step = item.As<uint64_t>();
  if (!step.ok() || step.value().size() != 1) return MalformedCopy("a step is cut off");
  source.steps[id.value()] = static_cast<uint32_t>(step.value()[0]);
  return Status::Ok();
}

Status Copies::Begin(const CopyItem& item, Source& source) {
  const CopyRange range = RangeOf(item).value();
  const SlotSet slots = SlotSet::Range(range.begin, range.end);
  const auto windows =
      CopyItem{item.kind, 0, 0, item.bytes.subspan(sizeof(range))}.As<AppliedPushes::Entry>();
  if (!windows.ok()) return windows.status();
  Forget(slots);
  source.slots.Add(slots);
  return source.applied.Import(range.begin, range.end, windows.value());
}

Status Copies::RepeatPushes(const CopyItem& item, uint64_t version, const SlotRouting& routing,
                            Source& source) {
  const auto pushes = item.As<AppliedPush>();
  if (!pushes.ok()) return pushes.status();
  SlotSet came_later;
  source.slots.ForEach([&](uint32_t slot) {
    if (routing.changed_at[slot] > version) came_later.Add(slot);
  });
  for (AppliedPush push : pushes.value()) {
    push.passed_by.Add(came_later);
    source.applied.Finish(push);
  }
  return Status::Ok();
}

// ---- routing ------------------------------------------------------------------------------------

void Copies::Forget(const SlotSet& slots) {
  slots.ForEachRun([&](uint32_t begin, uint32_t end) NO_THREAD_SAFETY_ANALYSIS {
    for (const auto& [salt, id] : tables_) {
      store_.FindTable(id)->copies(begin / kSlotsPerGroup).DropSlots(begin, end);
    }
    for (auto& [number, source] : sources_) source.applied.Drop(begin, end);
  });
  for (auto& [number, source] : sources_) source.slots.Remove(slots);
}

Status Copies::TakeOver(ServerNumber number, const SlotSet& slots, const SlotRouting& before,
                        const SlotRouting& after) {
  Source& source = sources_[number];
  Status status;
  slots.ForEachRun([&](uint32_t begin, uint32_t end) NO_THREAD_SAFETY_ANALYSIS {
    const uint32_t group = begin / kSlotsPerGroup;
    const uint32_t lowest = before.LowestOf(number, group);
    const bool takes_totals = !after.OwnsAnyOf(number, group) && lowest >= begin && lowest < end;
    for (const auto& [salt, id] : tables_) {
      Table* table = store_.FindTable(id);
      if (!status.ok()) return;
      status = table->copies(group).GiveSlots(begin, end, table->group(group));
      if (takes_totals) table->group(group).AddTotals(source.totals[{id, group}]);
      table->RaiseStep(source.steps[id]);
    }
    if (status.ok()) status = applied_.Import(begin, end, source.applied.Export(begin, end));
    source.applied.Drop(begin, end);
  });
  source.slots.Remove(slots);
  return status;
}

Status Copies::HandDown(ServerNumber owner, const SlotSet& slots) {
  Source& source = sources_[owner];
  source.slots.Add(slots);
  Status status;
  slots.ForEachRun([&](uint32_t begin, uint32_t end) NO_THREAD_SAFETY_ANALYSIS {
    const uint32_t group = begin / kSlotsPerGroup;
    for (const auto& [salt, id] : tables_) {
      Table* table = store_.FindTable(id);
      if (status.ok()) status = table->group(group).GiveSlots(begin, end, table->copies(group));
    }
    if (status.ok()) status = source.applied.Import(begin, end, applied_.Export(begin, end));
    applied_.Drop(begin, end);
  });
  return status;
}

void Copies::Drop(const SlotSet& slots) {
  slots.ForEachRun([&](uint32_t begin, uint32_t end) NO_THREAD_SAFETY_ANALYSIS {
    for (const auto& [salt, id] : tables_) {
      store_.FindTable(id)->group(begin / kSlotsPerGroup).DropSlots(begin, end);
    }
    applied_.Drop(begin, end);
  });
}

void Copies::ClearTotals(const SlotSet& gone, const SlotRouting& after) {
  for (uint32_t group = 0; group < kGroupCount; ++group) {
    if (!gone.MeetsGroup(group) || after.OwnsAnyOf(number_, group)) continue;
    for (const auto& [salt, id] : tables_) store_.FindTable(id)->group(group).ClearTotals();
  }
}

Status Copies::Follow(const SlotRouting& before, const SlotRouting& after) {
  const MutexLock lock(mutex_);
  std::map<ServerNumber, SlotSet> taken;
  std::map<ServerNumber, SlotSet> handed_down;
  SlotSet dropped;
  SlotSet forgotten;
  SlotSet gone;
  for (const auto& [number, source] : sources_) {
    source.slots.ForEach([&, of = number](uint32_t slot) {
      if (after.owners[slot] == number_) {
        taken[of].Add(slot);
      } else if (after.backups[slot] != number_ || after.owners[slot] != of) {
        forgotten.Add(slot);
      }
    });
  }
  for (uint32_t slot = 0; slot < kSlotCount; ++slot) {
    if (after.owners[slot] == number_) continue;
    if (before.owners[slot] == number_) {
      gone.Add(slot);
      (after.backups[slot] == number_ ? handed_down[after.owners[slot]] : dropped).Add(slot);
    } else if (after.backups[slot] == number_ && before.version == 0) {
      sources_[after.owners[slot]].slots.Add(slot);  // Of a slot that is new, and empty.
    }
  }
  Forget(forgotten);
  Status status;
  const auto note = [&status](const Status& of_one) {
    if (status.ok()) status = of_one;
  };
  for (const auto& [number, slots] : taken) note(TakeOver(number, slots, before, after));
  for (const auto& [owner, slots] : handed_down) note(HandDown(owner, slots));
  Drop(dropped);
  ClearTotals(gone, after);
  return status;
}

}  // namespace embery
