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

const AppliedPushes::Window& AppliedPushes::Client::Of(uint32_t slot) const {
  const auto at = moved.find(slot);
  return at == moved.end() ? here : at->second.window;
}

void AppliedPushes::Client::Settle(const SlotSet& slots, const SlotSet& passed_by,
                                   uint64_t sequence) {
  passed_by.ForEach([&](uint32_t slot) {
    Moved& own = moved.try_emplace(slot, Moved{here, 0}).first->second;
    own.arrival = std::max({own.arrival, here.highest, sequence});
  });
  counted.Add(sequence);
  here.Add(sequence);
  if (moved.empty()) return;
  slots.ForEach([&](uint32_t slot) {
    const auto at = moved.find(slot);
    if (at != moved.end()) at->second.window.Add(sequence);
  });
  // All that the common window tells of is of the slot, too.
  std::erase_if(moved,
                [this](const auto& slot) { return here.highest >= slot.second.arrival + kWindow; });
}

AppliedPushes::Client& AppliedPushes::Use(uint64_t number) {
  const auto [at, added] = clients_.try_emplace(number);
  Client& client = at->second;
  client.last_use = ++uses_;
  if (added && number >= PushIdentity::kLeases) ++lease_count_;
  if (clients_.size() - lease_count_ > kClientsMax) {
    clients_.erase(std::min_element(
        clients_.begin(), clients_.lower_bound(PushIdentity::kLeases),
        [](const auto& a, const auto& b) { return a.second.last_use < b.second.last_use; }));
    ++clients_forgotten_;
  }
  return client;
}

Status AppliedPushes::Admit(const PushIdentity& push, uint64_t token) {
  if (!push.is_leased()) return Status::Ok();
  const std::string lease = "lease " + std::to_string(push.client - PushIdentity::kLeases);
  const MutexLock lock(mutex_);
  if (push.client < leases_from_) {
    return Status::InvalidArgument("batch " + std::to_string(push.sequence) + " of " + lease +
                                   ": the lease is over, its batches are done; nothing was done");
  }
  if (lease_count_ >= kLeasesMax && !clients_.contains(push.client)) {
    return Status::ResourceExhausted(lease + " is one more than the " + std::to_string(kLeasesMax) +
                                     " that a server knows; read data in fewer, larger pieces");
  }
  Client& client = Use(push.client);
  if (token < client.token) {
    return Status::InvalidArgument(
        "batch " + std::to_string(push.sequence) + " of " + lease + ": it has token " +
        std::to_string(token) + " and another worker has come with " +
        std::to_string(client.token) +
        ", as this one was not heard of; nothing was done, this worker must end");
  }
  client.token = token;
  return Status::Ok();
}

void AppliedPushes::RetireLeases(uint64_t before) {
  const MutexLock lock(mutex_);
  if (before <= leases_from_) return;
  leases_from_ = before;
  const auto end = clients_.lower_bound(before);
  for (auto it = clients_.lower_bound(PushIdentity::kLeases); it != end;) {
    it = clients_.erase(it);
    --lease_count_;
  }
}

Result<AppliedPushes::Claim> AppliedPushes::Begin(const PushIdentity& push, const SlotSet& slots) {
  Claim claim;
  if (push.sequence == 0) return claim;
  std::unique_lock lock(mutex_.native());
  ended_.wait(lock, [&]() NO_THREAD_SAFETY_ANALYSIS { return !under_way_.contains(push); });
  const Client& client = Use(push.client);
  bool is_too_old = !push.is_leased() && client.counted.IsBefore(push.sequence);
  slots.ForEach([&](uint32_t slot) {
    const Window& window = client.Of(slot);
    if (IsDone(window, push)) {
      claim.done.Add(slot);
    } else {
      is_too_old = is_too_old || window.IsBefore(push.sequence);
    }
  });
  if (is_too_old) {
    return Status::InvalidArgument(
        "push " + std::to_string(push.sequence) + " of client " + std::to_string(push.client) +
        " comes more than " + std::to_string(kWindow) +
        " pushes late: whether it was applied is no longer known; nothing was done");
  }
  claim.counts = !IsDone(client.counted, push);
  under_way_.insert(push);
  return claim;
}

bool AppliedPushes::IsApplied(const PushIdentity& push, const SlotSet& slots) {
  const MutexLock lock(mutex_);
  const auto client = clients_.find(push.client);
  if (push.sequence == 0 || client == clients_.end()) return false;
  bool is_applied = IsDone(client->second.counted, push);
  slots.ForEach(
      [&](uint32_t slot) { is_applied = is_applied && IsDone(client->second.Of(slot), push); });
  return is_applied;
}

void AppliedPushes::Finish(const AppliedPush& push) {
  if (push.identity.sequence == 0) return;
  {
    const MutexLock lock(mutex_);
    Use(push.identity.client).Settle(push.slots, push.passed_by, push.identity.sequence);
    under_way_.erase(push.identity);
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
  for (const auto& [number, client] : clients_) {
    const uint64_t of = number;
    const auto add = [&entries, of](uint64_t slot, const Window& window) {
      if (window.applied != 0) entries.push_back({of, slot, window.highest, window.applied});
    };
    for (uint32_t slot = begin; slot < end; ++slot) add(slot, client.Of(slot));
    add(Entry::kCounted, client.counted);
  }
  return entries;
}

Status AppliedPushes::Import(uint32_t begin, uint32_t end, std::span<const Entry> entries) {
  for (const Entry& entry : entries) {
    if (entry.slot == Entry::kCounted || (entry.slot >= begin && entry.slot < end)) continue;
    return Status::InvalidArgument("a record of pushes is of slot " + std::to_string(entry.slot) +
                                   ", expected " + std::to_string(begin) + " to " +
                                   std::to_string(end - 1));
  }
  const MutexLock lock(mutex_);
  const auto is_over = [this](uint64_t client) NO_THREAD_SAFETY_ANALYSIS {
    return client >= PushIdentity::kLeases && client < leases_from_;
  };
  for (const Entry& entry : entries) {
    if (is_over(entry.client)) continue;
    Client& client = Use(entry.client);
    if (entry.slot == Entry::kCounted) client.counted.Join({entry.highest, entry.applied});
  }
  // Also of a client that the other server did not know: its pushes here did not reach the slots.
  for (auto& [number, client] : clients_) {
    const uint64_t arrival = std::max(client.counted.highest, client.here.highest);
    for (uint32_t slot = begin; slot < end; ++slot) client.moved[slot] = {Window{}, arrival};
  }
  for (const Entry& entry : entries) {
    if (entry.slot == Entry::kCounted || is_over(entry.client)) continue;
    Moved& moved = clients_[entry.client].moved[static_cast<uint32_t>(entry.slot)];
    moved.window = {entry.highest, entry.applied};
    moved.arrival = std::max(moved.arrival, entry.highest);
  }
  return Status::Ok();
}

void AppliedPushes::Drop(uint32_t begin, uint32_t end) {
  const MutexLock lock(mutex_);
  for (auto& [number, client] : clients_) {
    std::erase_if(client.moved, [begin, end](const auto& slot) {
      return slot.first >= begin && slot.first < end;
    });
  }
}

uint64_t AppliedPushes::clients_forgotten() {
  const MutexLock lock(mutex_);
  return clients_forgotten_;
}

}  // namespace embery
