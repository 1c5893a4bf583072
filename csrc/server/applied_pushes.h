// Which pushes were applied to which slots, so that one that is sent again changes nothing.
//
// A push is known by the number of its client and its sequence there. A window tells which of the
// 64 sequences up to the highest were applied here; what is applied is applied to all slots of the
// push that are here, so one window serves them all. A slot that has moved here has a window of its
// own, which it brought along, until that is so old that the common one says the same. So does a
// slot that a push passed by because its sender did not know yet that the slot had moved here. One
// more window tells which pushes were counted, as steps of the tables: a push that comes again for
// slots that have moved here in the meantime is applied to them, in the step that it had.
//
// A batch of a lease is pushed under the lease's number, its sequence being that of the batch, so
// whoever has the lease next repeats a batch and changes only what is missing. Batches of a lease
// are pushed in their order, each when the one before it was acknowledged: what is older than the
// window was applied. A lease has a token, higher for each worker that gets it: pushes with a lower
// one than has come before are refused. Windows of leases are kept until the coordinator says that
// they are over.
//
// Thread-safety: all methods may be called from any thread. Ownership: owns its windows. Invariant:
// between Begin and Finish or Abandon a push is under way, and an equal one waits in Begin.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <map>
#include <set>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "base/slot_set.h"
#include "base/status.h"

namespace embery {

struct PushIdentity {
  // Clients that are leases; they are numbered in the order in which they may end.
  static constexpr uint64_t kLeases = uint64_t{1} << 63;

  uint64_t client;
  uint64_t sequence;  // From 1. 0 has no identity: it is applied whenever it comes.

  bool is_leased() const { return client >= kLeases; }

  friend auto operator<=>(const PushIdentity&, const PushIdentity&) = default;
};

struct AppliedPush {
  PushIdentity identity;
  SlotSet slots;  // To all of which it was applied.
  // It may come again for these, which are here, and which its sender took for another server's.
  SlotSet passed_by = {};
};

class AppliedPushes {
 public:
  static constexpr uint64_t kWindow = 64;
  // Clients beyond are forgotten, the one that has not pushed for longest first.
  static constexpr size_t kClientsMax = 1024;
  // Leases beyond are refused.
  static constexpr size_t kLeasesMax = size_t{1} << 17;

  // What there is to do for a push.
  struct Claim {
    bool counts = true;  // As a step: it is new here.
    SlotSet done;        // Of its slots: where it was applied before.
  };

  // kInvalidArgument if the push is of a lease that another worker has by now, or that is over.
  Status Admit(const PushIdentity& push, uint64_t token) EXCLUDES(mutex_);
  // Leases of numbers below are over: what is known of them is dropped, and their pushes refused.
  void RetireLeases(uint64_t before) EXCLUDES(mutex_);

  // kInvalidArgument if the push is so old that it cannot be told whether it was applied.
  Result<Claim> Begin(const PushIdentity& push, const SlotSet& slots)
      EXCLUDES(mutex_) NO_THREAD_SAFETY_ANALYSIS;
  // Whether nothing is left to do for the push.
  bool IsApplied(const PushIdentity& push, const SlotSet& slots) EXCLUDES(mutex_);
  void Finish(const AppliedPush& push) EXCLUDES(mutex_);
  // It was not applied, and may come again.
  void Abandon(const PushIdentity& push) EXCLUDES(mutex_);

  // A window as it moves to another server; of pushes counted, where `slot` is kCounted.
  struct Entry {
    static constexpr uint64_t kCounted = kSlotCount;
    uint64_t client;
    uint64_t slot;
    uint64_t highest;
    uint64_t applied;  // Bit i: whether `highest - i` was.
  };
  // Of slots [begin, end), and of pushes counted.
  std::vector<Entry> Export(uint32_t begin, uint32_t end) EXCLUDES(mutex_);
  // Slots [begin, end) have moved here, and this is what the server before knows of them;
  // kInvalidArgument if an entry is of another slot.
  Status Import(uint32_t begin, uint32_t end, std::span<const Entry> entries) EXCLUDES(mutex_);
  void Drop(uint32_t begin, uint32_t end) EXCLUDES(mutex_);

  uint64_t clients_forgotten() EXCLUDES(mutex_);

 private:
  struct Window {
    uint64_t highest = 0;
    uint64_t applied = 0;

    bool Has(uint64_t sequence) const {
      return sequence <= highest && highest - sequence < kWindow &&
             (applied >> (highest - sequence) & 1) != 0;
    }
    bool IsBefore(uint64_t sequence) const { return sequence + kWindow <= highest; }
    void Raise(uint64_t to);
    void Add(uint64_t sequence);
    void Join(const Window& other);
  };
  // Of a slot that has moved here.
  struct Moved {
    Window window;
    uint64_t arrival = 0;  // No sequence that the common window has wrongly for it is higher.
  };
  struct Client {
    Window counted;
    Window here;
    std::unordered_map<uint32_t, Moved> moved;
    uint64_t last_use = 0;
    uint64_t token = 0;

    const Window& Of(uint32_t slot) const;
    void Settle(const SlotSet& slots, const SlotSet& passed_by, uint64_t sequence);
  };

  static bool IsDone(const Window& window, const PushIdentity& push) {
    return window.Has(push.sequence) || (push.is_leased() && window.IsBefore(push.sequence));
  }
  Client& Use(uint64_t number) REQUIRES(mutex_);

  Mutex mutex_;
  std::condition_variable ended_;
  std::map<uint64_t, Client> clients_ GUARDED_BY(mutex_);
  std::set<PushIdentity> under_way_ GUARDED_BY(mutex_);
  uint64_t uses_ GUARDED_BY(mutex_) = 0;
  uint64_t clients_forgotten_ GUARDED_BY(mutex_) = 0;
  size_t lease_count_ GUARDED_BY(mutex_) = 0;
  uint64_t leases_from_ GUARDED_BY(mutex_) = PushIdentity::kLeases;  // Those before are over.
};

}  // namespace embery
