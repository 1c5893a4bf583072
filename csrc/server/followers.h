// The servers that hold copies of slots of this one, and what they are told.
//
// What happens to the rows of a followed slot is kept by its group (changes.h), and what was pushed
// is noted. Now and then all of that is taken as a cut, while nothing changes: a cut holds pushes
// whole, with all that they did and with their identity. Each follower is told of all cuts, in
// order, one frame at a time; so what it has is always what this server had after some push. A
// follower whose copy is complete is a backup: a push is answered once all backups have it.
//
// The frames are carried by whoever calls Next and Acknowledge.
//
// Thread-safety: all methods may be called from any thread. Ownership: borrows the store. Locks:
// the caller's gate, then changing(), then the mutex within, then a group's. Invariants: frames of
// one follower are numbered in the order of what they tell of; a backup ceases to be one by a newer
// routing only.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "base/deadline.h"
#include "base/mutex.h"
#include "base/slot_set.h"
#include "base/status.h"
#include "server/applied_pushes.h"
#include "server/server_number.h"
#include "table/store.h"
#include "wire/copy_frame.h"

namespace embery {

class Followers {
 public:
  // kSafe: all backups have it. kRefused: another server owns its slots. kStopped: this one ends.
  enum class Fate : uint8_t { kSafe, kRefused, kStopped };
  using Answer = std::function<void(Fate)>;

  Followers(Store& store, AppliedPushes& applied, ServerNumber number)
      : store_(store), applied_(applied), number_(number) {}

  // Held shared while rows change and until that is noted.
  SharedMutex& changing() RETURN_CAPABILITY(changing_) { return changing_; }

  void AddTable(uint64_t salt, TableId table) EXCLUDES(mutex_);

  // What was changed; returns the cut that backups must have before it is safe, 0 if there are
  // none.
  uint64_t Note(std::span<const AppliedPush> pushes) REQUIRES_SHARED(changing_) EXCLUDES(mutex_);
  // The cut of all that was noted.
  uint64_t Present() EXCLUDES(mutex_);
  // Calls `answer` exactly once, before it returns if it can.
  void WhenSafe(uint64_t cut, Answer answer) EXCLUDES(mutex_);

  // By the routing of `version`, `backups` have the slots that are here; who follows others, or did
  // not finish its copy, does so no longer. Where slots are not here any more, pushes that wait may
  // be of these: they are refused, and come again. Requires: nothing is under way.
  // What is returned is to be called when requests are served again: it answers them.
  enum class Kept : uint8_t { kAll, kSome };
  [[nodiscard]] std::function<void()> Follow(uint64_t version,
                                             const std::map<ServerNumber, SlotSet>& backups,
                                             Kept kept) EXCLUDES(changing_, mutex_);

  struct Copied {
    uint64_t rows = 0;
    uint64_t bytes = 0;
  };
  // Lets `target` follow slots [begin, end); blocks until it has all of them, from when on it is a
  // backup; at once if it is that already. kUnavailable if a newer routing ended that.
  Result<Copied> Copy(ServerNumber target, uint32_t begin, uint32_t end, Deadline deadline)
      EXCLUDES(changing_, mutex_);
  // Blocks until all followers have all that happened before the call. Slots that are to change
  // their owner need that, once they are frozen: a follower that hears of it first would refuse
  // what was pushed to them before.
  Status FlushAll(Deadline deadline) EXCLUDES(changing_, mutex_);

  struct Frame {
    uint64_t number = 0;
    std::vector<std::byte> body;  // Empty if there was nothing to tell until the deadline.
  };
  // What to send to a follower next; the same again until it is acknowledged. None if it does not
  // follow until the deadline, or this server stops.
  std::optional<Frame> Next(ServerNumber target, Deadline deadline)
      EXCLUDES(changing_, mutex_) NO_THREAD_SAFETY_ANALYSIS;
  void Acknowledge(ServerNumber target, uint64_t frame) EXCLUDES(mutex_);
  // The follower knows of a routing by which the slots are not this server's.
  void Refused(ServerNumber target) EXCLUDES(mutex_);

  std::vector<ServerNumber> targets() EXCLUDES(mutex_);
  void Stop() EXCLUDES(mutex_);

  struct Lag {
    uint64_t frames = 0;  // That wait to be acknowledged.
    uint64_t bytes = 0;
    uint32_t slots = 0;
    uint32_t complete_slots = 0;
  };
  Lag LagOf(ServerNumber target) EXCLUDES(mutex_);

 private:
  struct GroupLog {
    uint64_t salt;
    uint32_t group;
    SlotGroup::Totals totals;
    std::vector<std::byte> changes;
  };
  struct Cut {
    uint64_t number = 0;
    std::vector<AppliedPush> pushes;
    std::vector<GroupLog> logs;
    std::vector<std::pair<uint64_t, uint64_t>> steps;  // Of tables, by salt.
  };
  // A cut, or items of a copy.
  struct Entry {
    uint64_t number = 0;
    uint64_t version = 0;  // Of the routing when it was queued.
    std::shared_ptr<const Cut> cut;
    CopyKind kind = CopyKind::kChanges;
    uint32_t group = 0;
    uint64_t salt = 0;
    std::vector<std::byte> bytes;
  };
  struct Follower {
    SlotSet slots;
    SlotSet complete;  // Of them: a backup's.
    std::deque<std::shared_ptr<const Entry>> queue;
    uint64_t queued_bytes = 0;
    uint64_t acknowledged = 0;      // The last frame that was.
    uint64_t acknowledged_cut = 0;  // All cuts up to it were.
    bool is_refusing = false;
  };
  using Answers = std::vector<Answer>;

  // Takes a cut and queues it.
  void TakeCut() EXCLUDES(changing_, mutex_);
  void TakeCutNow() REQUIRES(changing_, cutting_) EXCLUDES(mutex_);
  void LogGroups() REQUIRES(mutex_);
  Follower* Find(ServerNumber target) REQUIRES(mutex_);
  void Queue(Follower& follower, Entry entry) REQUIRES(mutex_);
  bool HasNoted() EXCLUDES(mutex_);
  bool HasBackups() const REQUIRES(mutex_);
  uint64_t SafeCut() const REQUIRES(mutex_);
  Answers TakeSafe() REQUIRES(mutex_);
  Answers TakeAll() REQUIRES(mutex_);
  bool IsOfInterest(const Cut& cut, const Follower& follower) const;
  std::vector<std::byte> Encode(const Entry& entry, const SlotSet& slots) const;
  Status BeginCopy(ServerNumber target, const SlotSet& slots, uint32_t begin, uint32_t end);
  // Queues the rows of slots of a group.
  Status QueueRows(ServerNumber target, uint64_t salt, TableId table, uint32_t begin, uint32_t end,
                   Deadline deadline, Copied& copied);
  Status Flush(ServerNumber target, Deadline deadline) EXCLUDES(changing_, mutex_);
  Status AwaitFrame(ServerNumber target, uint64_t frame, Deadline deadline);
  Status AwaitRoom(ServerNumber target, Deadline deadline);
  void AbandonCopy(ServerNumber target, const SlotSet& slots);

  Store& store_;
  AppliedPushes& applied_;
  const ServerNumber number_;
  SharedMutex changing_;
  // Serialises cuts, from the taking to the queueing.
  Mutex cutting_;
  Mutex mutex_;
  std::condition_variable changed_;
  std::map<uint64_t, TableId> tables_ GUARDED_BY(mutex_);
  std::map<ServerNumber, Follower> followers_ GUARDED_BY(mutex_);
  SlotSet logged_ GUARDED_BY(mutex_);
  // Of which operation followers know the totals of a group, by salt and group.
  std::map<std::pair<uint64_t, uint32_t>, uint64_t> told_operations_ GUARDED_BY(cutting_);
  std::vector<AppliedPush> noted_ GUARDED_BY(mutex_);
  bool is_dirty_ GUARDED_BY(mutex_) = false;
  bool is_stopped_ GUARDED_BY(mutex_) = false;
  uint64_t version_ GUARDED_BY(mutex_) = 0;
  uint64_t open_cut_ GUARDED_BY(mutex_) = 1;
  uint64_t next_frame_ GUARDED_BY(mutex_) = 1;
  std::map<uint64_t, Answers> waiting_ GUARDED_BY(mutex_);
};

}  // namespace embery
