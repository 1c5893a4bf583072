#include "server/followers.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <string>

namespace embery {
namespace {

void CallAll(const std::vector<Followers::Answer>& answers, Followers::Fate fate) {
  for (const Followers::Answer& answer : answers) answer(fate);
}

}  // namespace

// ---- what happens -------------------------------------------------------------------------------

void Followers::AddTable(uint64_t salt, TableId table) {
  const MutexLock lock(mutex_);
  tables_[salt] = table;
  for (uint32_t group = 0; group < kGroupCount; ++group) {
    if (logged_.MeetsGroup(group)) store_.FindTable(table)->group(group).StartLog();
  }
}

uint64_t Followers::Note(std::span<const AppliedPush> pushes) {
  bool has_backups = false;
  uint64_t cut = 0;
  {
    const MutexLock lock(mutex_);
    if (followers_.empty()) return 0;
    noted_.insert(noted_.end(), pushes.begin(), pushes.end());
    is_dirty_ = true;
    has_backups = HasBackups();
    cut = open_cut_;
  }
  changed_.notify_all();
  return has_backups ? cut : 0;
}

uint64_t Followers::Present() {
  const MutexLock lock(mutex_);
  if (!HasBackups()) return 0;
  return is_dirty_ ? open_cut_ : open_cut_ - 1;
}

void Followers::WhenSafe(uint64_t cut, Answer answer) {
  Fate fate = Fate::kSafe;
  if (cut > 0) {
    const MutexLock lock(mutex_);
    const bool is_refused =
        std::any_of(followers_.begin(), followers_.end(),
                    [](const auto& follower) { return follower.second.is_refusing; });
    if (is_stopped_ || is_refused) {
      fate = is_stopped_ ? Fate::kStopped : Fate::kRefused;
    } else if (cut > SafeCut()) {
      waiting_[cut].push_back(std::move(answer));
      return;
    }
  }
  answer(fate);
}

void Followers::TakeCut() {
  const MutexLock cutting(cutting_);
  const WriterLock changing(changing_);
  TakeCutNow();
}

void Followers::TakeCutNow() {
  auto cut = std::make_shared<Cut>();
  std::map<uint64_t, TableId> tables;
  SlotSet logged;
  {
    const MutexLock lock(mutex_);
    tables = tables_;
    logged = logged_;
  }
  for (const auto& [salt, id] : tables) {
    Table* table = store_.FindTable(id);
    cut->steps.emplace_back(salt, table->step());
    for (uint32_t group = 0; group < kGroupCount; ++group) {
      if (!logged.MeetsGroup(group)) continue;
      std::vector<std::byte> changes = table->group(group).TakeLog();
      const SlotGroup::Totals totals = table->group(group).totals();
      const auto [told, is_new] = told_operations_.try_emplace({salt, group}, totals.operation);
      if (!is_new && changes.empty() && told->second == totals.operation) continue;
      told->second = totals.operation;
      cut->logs.push_back({salt, group, totals, std::move(changes)});
    }
  }
  {
    const MutexLock lock(mutex_);
    cut->number = open_cut_++;
    cut->pushes.swap(noted_);
    is_dirty_ = false;
    for (auto& [number, follower] : followers_) {
      Queue(follower, {.cut = cut, .bytes = {}});
    }
  }
  changed_.notify_all();
}

// ---- followers ----------------------------------------------------------------------------------

Followers::Follower* Followers::Find(ServerNumber target) {
  const auto at = followers_.find(target);
  return at == followers_.end() ? nullptr : &at->second;
}

void Followers::Queue(Follower& follower, Entry entry) {
  entry.number = next_frame_++;
  entry.version = version_;
  follower.queued_bytes += entry.bytes.size();
  follower.queue.push_back(std::make_shared<const Entry>(std::move(entry)));
}

bool Followers::HasNoted() {
  const MutexLock lock(mutex_);
  return !noted_.empty();
}

bool Followers::HasBackups() const {
  return std::any_of(followers_.begin(), followers_.end(),
                     [](const auto& follower) { return !follower.second.complete.empty(); });
}

uint64_t Followers::SafeCut() const {
  uint64_t safe = open_cut_ - 1;
  bool has_backups = false;
  for (const auto& [number, follower] : followers_) {
    if (follower.complete.empty()) continue;
    safe = std::min(safe, follower.acknowledged_cut);
    has_backups = true;
  }
  return has_backups ? safe : UINT64_MAX;
}

Followers::Answers Followers::TakeSafe() {
  Answers answers;
  const uint64_t safe = SafeCut();
  while (!waiting_.empty() && waiting_.begin()->first <= safe) {
    auto node = waiting_.extract(waiting_.begin());
    std::move(node.mapped().begin(), node.mapped().end(), std::back_inserter(answers));
  }
  return answers;
}

Followers::Answers Followers::TakeAll() {
  Answers answers;
  for (auto& [cut, of_cut] : waiting_) {
    std::move(of_cut.begin(), of_cut.end(), std::back_inserter(answers));
  }
  waiting_.clear();
  return answers;
}

void Followers::LogGroups() {
  SlotSet wanted;
  for (const auto& [number, follower] : followers_) wanted.Add(follower.slots);
  for (const auto& [salt, id] : tables_) {
    Table* table = store_.FindTable(id);
    for (uint32_t group = 0; group < kGroupCount; ++group) {
      if (wanted.MeetsGroup(group) == logged_.MeetsGroup(group)) continue;
      if (wanted.MeetsGroup(group)) {
        table->group(group).StartLog();
      } else {
        table->group(group).StopLog();
      }
    }
  }
  logged_ = wanted;
}

std::function<void()> Followers::Follow(uint64_t version,
                                        const std::map<ServerNumber, SlotSet>& backups, Kept kept) {
  Answers safe;
  Answers refused;
  {
    const MutexLock cutting(cutting_);
    const WriterLock changing(changing_);
    // What was noted concerns slots as they were: who follows still is told so.
    if (HasNoted()) TakeCutNow();
    const MutexLock lock(mutex_);
    version_ = version;
    std::erase_if(followers_, [&](const auto& f) { return !backups.contains(f.first); });
    for (const auto& [target, slots] : backups) {
      auto [at, is_new] = followers_.try_emplace(target);
      Follower& follower = at->second;
      if (is_new) follower.acknowledged_cut = open_cut_ - 1;
      // Slots that it did not follow before it has nevertheless: they were its own, or are empty.
      follower.slots = follower.complete = slots;
      follower.is_refusing = false;
    }
    told_operations_.clear();
    is_dirty_ = !followers_.empty();
    LogGroups();
    if (kept == Kept::kSome) refused = TakeAll();
    safe = TakeSafe();
  }
  changed_.notify_all();
  return [refused = std::move(refused), safe = std::move(safe)] {
    CallAll(refused, Fate::kRefused);
    CallAll(safe, Fate::kSafe);
  };
}

// ---- frames -------------------------------------------------------------------------------------

bool Followers::IsOfInterest(const Cut& cut, const Follower& follower) const {
  return std::any_of(cut.logs.begin(), cut.logs.end(),
                     [&](const GroupLog& log) { return follower.slots.MeetsGroup(log.group); }) ||
         std::any_of(cut.pushes.begin(), cut.pushes.end(),
                     [&](const AppliedPush& push) { return push.slots.Meets(follower.slots); });
}

std::vector<std::byte> Followers::Encode(const Entry& entry, const SlotSet& slots) const {
  CopyFrameWriter writer({entry.version, entry.number, number_});
  if (entry.cut == nullptr) {
    writer.Add({entry.kind, entry.group, entry.salt, entry.bytes});
    return writer.Take();
  }
  for (const auto& [salt, step] : entry.cut->steps) {
    writer.Add(CopyKind::kStep, 0, salt, std::span(&step, 1));
  }
  for (const GroupLog& log : entry.cut->logs) {
    if (!slots.MeetsGroup(log.group)) continue;
    writer.Add({CopyKind::kChanges, log.group, log.salt, log.changes});
    writer.Add(CopyKind::kTotals, log.group, log.salt, std::span(&log.totals, 1));
  }
  std::vector<AppliedPush> pushes;
  std::copy_if(entry.cut->pushes.begin(), entry.cut->pushes.end(), std::back_inserter(pushes),
               [&](const AppliedPush& push) { return push.slots.Meets(slots); });
  writer.Add(CopyKind::kPushes, 0, 0, std::span<const AppliedPush>(pushes));
  return writer.Take();
}

std::optional<Followers::Frame> Followers::Next(ServerNumber target, Deadline deadline) {
  while (true) {
    Answers safe;
    std::shared_ptr<const Entry> entry;
    SlotSet slots;
    bool is_passed_over = false;
    {
      std::unique_lock lock(mutex_.native());
      Follower* follower = nullptr;
      const bool has_come = changed_.wait_until(lock, deadline, [&]() NO_THREAD_SAFETY_ANALYSIS {
        follower = Find(target);
        return is_stopped_ || (follower != nullptr && !follower->is_refusing &&
                               (is_dirty_ || !follower->queue.empty()));
      });
      if (is_stopped_ || follower == nullptr) return std::nullopt;
      if (!has_come) return Frame{};
      if (!follower->queue.empty()) {
        entry = follower->queue.front();
        slots = follower->slots;
        if (entry->cut != nullptr && !IsOfInterest(*entry->cut, *follower)) {
          follower->acknowledged = entry->number;
          follower->acknowledged_cut = entry->cut->number;
          follower->queue.pop_front();
          is_passed_over = true;
          safe = TakeSafe();
        }
      }
    }
    if (entry == nullptr) {
      TakeCut();
    } else if (is_passed_over) {
      changed_.notify_all();
      CallAll(safe, Fate::kSafe);
    } else {
      return Frame{entry->number, Encode(*entry, slots)};
    }
  }
}

void Followers::Acknowledge(ServerNumber target, uint64_t frame) {
  Answers safe;
  {
    const MutexLock lock(mutex_);
    Follower* follower = Find(target);
    if (follower == nullptr) return;
    while (!follower->queue.empty() && follower->queue.front()->number <= frame) {
      const Entry& entry = *follower->queue.front();
      follower->queued_bytes -= entry.bytes.size();
      follower->acknowledged = entry.number;
      if (entry.cut != nullptr) follower->acknowledged_cut = entry.cut->number;
      follower->queue.pop_front();
    }
    safe = TakeSafe();
  }
  changed_.notify_all();
  CallAll(safe, Fate::kSafe);
}

void Followers::Refused(ServerNumber target) {
  Answers answers;
  {
    const MutexLock lock(mutex_);
    Follower* follower = Find(target);
    if (follower == nullptr) return;
    // What it was not told stays in its queue, in case it follows by the next routing.
    follower->is_refusing = true;
    answers = TakeAll();
  }
  changed_.notify_all();
  CallAll(answers, Fate::kRefused);
}

std::vector<ServerNumber> Followers::targets() {
  const MutexLock lock(mutex_);
  std::vector<ServerNumber> targets;
  for (const auto& [number, follower] : followers_) targets.push_back(number);
  return targets;
}

Followers::Lag Followers::LagOf(ServerNumber target) {
  const MutexLock lock(mutex_);
  Lag lag;
  const Follower* follower = Find(target);
  if (follower == nullptr) return lag;
  lag.frames = follower->queue.size();
  lag.bytes = follower->queued_bytes;
  follower->slots.ForEach([&](uint32_t) { ++lag.slots; });
  follower->complete.ForEach([&](uint32_t) { ++lag.complete_slots; });
  return lag;
}

void Followers::Stop() {
  Answers answers;
  {
    const MutexLock lock(mutex_);
    is_stopped_ = true;
    answers = TakeAll();
  }
  changed_.notify_all();
  CallAll(answers, Fate::kStopped);
}

}  // namespace embery
