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
  uint64_t client;
  uint64_t sequence;  // From 1. 0 has no identity: it is applied whenever it comes.

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

  // What there is to do for a push.
  struct Claim {
    bool counts = true;  // As a step: it is new here.
    SlotSet done;        // Of its slots: where it was applied before.
  };

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

    const Window& Of(uint32_t slot) const;
    void Settle(const SlotSet& slots, const SlotSet& passed_by, uint64_t sequence);
  };

  Client& Use(uint64_t number) REQUIRES(mutex_);

  Mutex mutex_;
  std::condition_variable ended_;
  std::map<uint64_t, Client> clients_ GUARDED_BY(mutex_);
  std::set<PushIdentity> under_way_ GUARDED_BY(mutex_);
  uint64_t uses_ GUARDED_BY(mutex_) = 0;
  uint64_t clients_forgotten_ GUARDED_BY(mutex_) = 0;
};

}  // namespace embery
