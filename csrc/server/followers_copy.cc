// How a follower gets its copy: what is beside rows at once, then the rows, while both change.
#include <algorithm>
#include <cstring>
#include <mutex>
#include <string>

#include "server/followers.h"

namespace embery {
namespace {

// Of a copy, what may wait to be sent; and how much of it goes in a frame, about.
constexpr uint64_t kQueuedBytesMax = uint64_t{64} << 20;
constexpr uint64_t kFrameBytes = uint64_t{16} << 20;

template <typename T>
std::vector<std::byte> Bytes(const T& head, std::span<const AppliedPushes::Entry> rest) {
  std::vector<std::byte> bytes(sizeof(head) + rest.size_bytes());
  std::memcpy(bytes.data(), &head, sizeof(head));
  if (!rest.empty()) std::memcpy(bytes.data() + sizeof(head), rest.data(), rest.size_bytes());
  return bytes;
}

Status Ended(ServerNumber target) {
  return Status::Unavailable("the copy to server " + std::to_string(target) +
                             " was ended by a newer routing, or this server stops");
}

}  // namespace

Status Followers::BeginCopy(ServerNumber target, const SlotSet& slots, uint32_t begin,
                            uint32_t end) {
  const MutexLock cutting(cutting_);
  const WriterLock changing(changing_);
  // What happened until now is part of the copy, and not to be repeated after it.
  TakeCutNow();
  const MutexLock lock(mutex_);
  if (is_stopped_) return Ended(target);
  auto [at, is_new] = followers_.try_emplace(target);
  Follower& follower = at->second;
  if (is_new) follower.acknowledged_cut = open_cut_ - 1;
  if (follower.slots.Meets(slots)) {
    return Status::InvalidArgument("server " + std::to_string(target) + " follows some of slots " +
                                   std::to_string(begin) + " to " + std::to_string(end - 1) +
                                   " already");
  }
  follower.slots.Add(slots);
  LogGroups();
  told_operations_.clear();
  is_dirty_ = true;
  Queue(follower, {.cut = nullptr,
                   .kind = CopyKind::kBegin,
                   .bytes = Bytes(CopyRange{begin, end}, applied_.Export(begin, end))});
  slots.ForEachRun([&](uint32_t first, uint32_t past) NO_THREAD_SAFETY_ANALYSIS {
    const uint32_t group = first / kSlotsPerGroup;
    for (const auto& [salt, table] : tables_) {
      ChangeLog log;
      store_.FindTable(table)->group(group).CopyState(first, past, log);
      Queue(follower, {.cut = nullptr,
                       .kind = CopyKind::kChanges,
                       .group = group,
                       .salt = salt,
                       .bytes = log.Take()});
    }
  });
  return Status::Ok();
}

Status Followers::AwaitRoom(ServerNumber target, Deadline deadline) {
  std::unique_lock lock(mutex_.native());
  Status status;
  changed_.wait_until(lock, deadline, [&]() NO_THREAD_SAFETY_ANALYSIS {
    const Follower* follower = Find(target);
    if (follower == nullptr || is_stopped_) {
      status = Ended(target);
      return true;
    }
    const bool has_room = follower->queued_bytes < kQueuedBytesMax;
    status = has_room ? Status::Ok()
                      : Status(StatusCode::kDeadlineExceeded,
                               "server " + std::to_string(target) + " takes in a copy too slowly");
    return has_room;
  });
  return status;
}

Status Followers::QueueRows(ServerNumber target, uint64_t salt, TableId table, uint32_t begin,
                            uint32_t end, Deadline deadline, Copied& copied) {
  SlotGroup& group = store_.FindTable(table)->group(begin / kSlotsPerGroup);
  const uint64_t bytes = group.size().rows * store_.FindTable(table)->layout().stride;
  const auto parts =
      static_cast<uint32_t>(std::clamp<uint64_t>(bytes / kFrameBytes + 1, 1, end - begin));
  for (uint32_t part = 0; part < parts; ++part) {
    EMBERY_RETURN_IF_ERROR(AwaitRoom(target, deadline));
    const uint32_t first = begin + (end - begin) * part / parts;
    const uint32_t past = begin + (end - begin) * (part + 1) / parts;
    ChangeLog log;
    // No cut comes between the reading of rows and their place in the queue.
    const ReaderLock changing(changing_);
    copied.rows += group.CopyRows(first, past, log);
    copied.bytes += log.size();
    const MutexLock lock(mutex_);
    Follower* follower = Find(target);
    if (follower == nullptr || !follower->slots.Contains(first)) return Ended(target);
    Queue(*follower, {.cut = nullptr,
                      .kind = CopyKind::kChanges,
                      .group = begin / kSlotsPerGroup,
                      .salt = salt,
                      .bytes = log.Take()});
    changed_.notify_all();
  }
  return Status::Ok();
}

Status Followers::AwaitFrame(ServerNumber target, uint64_t frame, Deadline deadline) {
  std::unique_lock lock(mutex_.native());
  Status status = Ended(target);
  const bool is_over = changed_.wait_until(lock, deadline, [&]() NO_THREAD_SAFETY_ANALYSIS {
    const Follower* follower = Find(target);
    if (follower == nullptr || is_stopped_) return true;
    status = Status::Ok();
    return follower->acknowledged >= frame;
  });
  if (is_over) return status;
  return Status(StatusCode::kDeadlineExceeded,
                "server " + std::to_string(target) + " did not take in a copy in time");
}

void Followers::AbandonCopy(ServerNumber target, const SlotSet& slots) {
  const MutexLock cutting(cutting_);
  const WriterLock changing(changing_);
  const MutexLock lock(mutex_);
  Follower* follower = Find(target);
  if (follower == nullptr) return;
  SlotSet given_up = slots;
  given_up.Remove(follower->complete);
  follower->slots.Remove(given_up);
  if (follower->slots.empty()) followers_.erase(target);
  LogGroups();
}

Result<Followers::Copied> Followers::Copy(ServerNumber target, uint32_t begin, uint32_t end,
                                          Deadline deadline) {
  const SlotSet slots = SlotSet::Range(begin, end);
  Copied copied;
  std::map<uint64_t, TableId> tables;
  {
    const MutexLock lock(mutex_);
    const Follower* follower = Find(target);
    if (follower != nullptr && follower->complete.Covers(slots)) return copied;
    tables = tables_;
  }
  EMBERY_RETURN_IF_ERROR(BeginCopy(target, slots, begin, end));
  Status status;
  slots.ForEachRun([&](uint32_t first, uint32_t past) {
    for (const auto& [salt, table] : tables) {
      if (!status.ok()) return;
      status = QueueRows(target, salt, table, first, past, deadline, copied);
    }
  });
  if (status.ok()) status = Flush(target, deadline);
  if (!status.ok()) {
    AbandonCopy(target, slots);
    return status;
  }
  const MutexLock lock(mutex_);
  Follower* follower = Find(target);
  if (follower == nullptr || !follower->slots.Contains(begin)) return Ended(target);
  follower->complete.Add(slots);
  return copied;
}

Status Followers::Flush(ServerNumber target, Deadline deadline) {
  TakeCut();
  uint64_t last = 0;
  {
    const MutexLock lock(mutex_);
    const Follower* follower = Find(target);
    if (follower == nullptr) return Ended(target);
    last = follower->queue.empty() ? follower->acknowledged : follower->queue.back()->number;
  }
  return AwaitFrame(target, last, deadline);
}

Status Followers::FlushAll(Deadline deadline) {
  for (const ServerNumber target : targets()) {
    EMBERY_RETURN_IF_ERROR(Flush(target, deadline));
  }
  return Status::Ok();
}

}  // namespace embery
