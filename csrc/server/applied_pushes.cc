#include "server/applied_pushes.h"

#include <algorithm>
#include <mutex>
#include <string>

namespace embery {

void AppliedPushes::Window::Raise(uint64_t to) {
  if (to <= highest) return;
  applied = to - highest < kWindow ? applied << (to - highest) : 0;
  highest = to;
}

void AppliedPushes::Window::Add(uint64_t sequence) {
  Raise(sequence);
  if (!IsBefore(sequence)) applied |= uint64_t{1} << (highest - sequence);
}

void AppliedPushes::Window::Join(const Window& other) {
  Raise(other.highest);
  const uint64_t behind = highest - other.highest;
  if (behind < kWindow) applied |= other.applied << behind;
}

AppliedPushes::Client& AppliedPushes::Use(uint64_t number) {
  Client& client = clients_[number];
  client.last_use = ++uses_;
  if (clients_.size() > kClientsMax) {
    clients_.erase(std::min_element(
        clients_.begin(), clients_.end(),
        [](const auto& a, const auto& b) { return a.second.last_use < b.second.last_use; }));
    ++clients_forgotten_;
  }
  return client;
}

Result<AppliedPushes::Claim> AppliedPushes::Begin(const PushIdentity& push, const SlotSet& slots) {
  Claim claim;
  if (push.sequence == 0) return claim;
  std::unique_lock lock(mutex_.native());
  ended_.wait(lock, [&]() NO_THREAD_SAFETY_ANALYSIS { return !under_way_.contains(push); });
  const std::vector<Window>& windows = Use(push.client).windows;
  bool is_too_old = windows[Entry::kCounted].IsBefore(push.sequence);
  slots.ForEach([&](uint32_t slot) {
    is_too_old = is_too_old || windows[slot].IsBefore(push.sequence);
    if (windows[slot].Has(push.sequence)) claim.done.Add(slot);
  });
  if (is_too_old) {
    return Status::InvalidArgument(
        "push " + std::to_string(push.sequence) + " of client " + std::to_string(push.client) +
        " comes more than " + std::to_string(kWindow) +
        " pushes late: whether it was applied is no longer known; nothing was done");
  }
  claim.counts = !windows[Entry::kCounted].Has(push.sequence);
  under_way_.insert(push);
  return claim;
}

bool AppliedPushes::IsApplied(const PushIdentity& push, const SlotSet& slots) {
  const MutexLock lock(mutex_);
  const auto client = clients_.find(push.client);
  if (push.sequence == 0 || client == clients_.end()) return false;
  const std::vector<Window>& windows = client->second.windows;
  bool is_applied = windows[Entry::kCounted].Has(push.sequence);
  slots.ForEach([&](uint32_t slot) { is_applied &= windows[slot].Has(push.sequence); });
  return is_applied;
}

void AppliedPushes::Finish(const PushIdentity& push, const SlotSet& slots) {
  if (push.sequence == 0) return;
  {
    const MutexLock lock(mutex_);
    std::vector<Window>& windows = Use(push.client).windows;
    windows[Entry::kCounted].Add(push.sequence);
    slots.ForEach([&](uint32_t slot) { windows[slot].Add(push.sequence); });
    under_way_.erase(push);
  }
  ended_.notify_all();
}

void AppliedPushes::Abandon(const PushIdentity& push) {
  if (push.sequence == 0) return;
  {
    const MutexLock lock(mutex_);
    under_way_.erase(push);
  }
  ended_.notify_all();
}

std::vector<AppliedPushes::Entry> AppliedPushes::Export(uint32_t begin, uint32_t end) {
  std::vector<Entry> entries;
  const MutexLock lock(mutex_);
  for (const auto& of_client : clients_) {
    const auto add = [&](uint64_t slot) {
      const Window& window = of_client.second.windows[slot];
      if (window.applied == 0) return;
      entries.push_back({of_client.first, slot, window.highest, window.applied});
    };
    for (uint64_t slot = begin; slot < end; ++slot) add(slot);
    add(Entry::kCounted);
  }
  return entries;
}

Status AppliedPushes::Import(std::span<const Entry> entries) {
  for (const Entry& entry : entries) {
    if (entry.slot <= Entry::kCounted) continue;
    return Status::InvalidArgument("a record of pushes names the slot " +
                                   std::to_string(entry.slot));
  }
  const MutexLock lock(mutex_);
  for (const Entry& entry : entries) {
    Use(entry.client).windows[entry.slot].Join({entry.highest, entry.applied});
  }
  return Status::Ok();
}

void AppliedPushes::Drop(uint32_t begin, uint32_t end) {
  const MutexLock lock(mutex_);
  for (auto& [number, client] : clients_) {
    std::fill(client.windows.begin() + begin, client.windows.begin() + end, Window{});
  }
}

uint64_t AppliedPushes::clients_forgotten() {
  const MutexLock lock(mutex_);
  return clients_forgotten_;
}

}  // namespace embery
