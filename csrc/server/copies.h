// The slots of other servers of which this one holds copies, and what it was told of them.
//
// A frame is repeated as a whole, once, in the order of the frames of its server. It is refused if,
// by a newer routing, the slots are not that server's any more: what such a server does does not
// count. Copies become the slots of this server, and its slots become copies, by routing only.
//
// Thread-safety: all methods may be called from any thread. Ownership: borrows the store and the
// record of pushes to this server. Invariant: a slot is a copy of one server's, and never also of
// this server.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "base/slot_set.h"
#include "base/status.h"
#include "server/applied_pushes.h"
#include "server/server_number.h"
#include "server/slot_routing.h"
#include "table/store.h"
#include "wire/copy_frame.h"

namespace embery {

class Copies {
 public:
  Copies(Store& store, AppliedPushes& applied, ServerNumber number)
      : store_(store), applied_(applied), number_(number) {}

  void AddTable(uint64_t salt, TableId table) EXCLUDES(mutex_);

  // kRefused: by `routing`, slots of the frame are not its sender's.
  enum class Verdict : uint8_t { kRepeated, kRefused };
  // kUnavailable if the frame is of a routing that is not known here yet: it is to come again.
  Result<Verdict> Repeat(const CopyFrame& frame, const SlotRouting& routing) EXCLUDES(mutex_);

  // Goes from one routing to the next: takes over copies that are this server's slots now, keeps as
  // copies slots that are no longer, and forgets the others. Requires: no request is under way.
  Status Follow(const SlotRouting& before, const SlotRouting& after) EXCLUDES(mutex_);

  void RetireLeases(uint64_t before) EXCLUDES(mutex_);

  // All slots of which there are copies.
  SlotSet slots() EXCLUDES(mutex_);

 private:
  // What is known of another server.
  struct Source {
    SlotSet slots;
    AppliedPushes applied;
    std::map<std::pair<TableId, uint32_t>, SlotGroup::Totals> totals;  // By group.
    std::map<TableId, uint32_t> steps;
    uint64_t last_frame = 0;
  };

  static bool Owns(ServerNumber source, const SlotSet& slots, const SlotRouting& routing);
  Result<Verdict> CheckOwner(const CopyFrame& frame, const SlotRouting& routing) const;
  Status RepeatItem(const CopyItem& item, const CopyFrame& frame, const SlotRouting& routing,
                    Source& source) REQUIRES(mutex_);
  Status Begin(const CopyItem& item, Source& source) REQUIRES(mutex_);
  // By the routing of `version` they were applied: slots of the source that it got later were not
  // among those that they could reach.
  Status RepeatPushes(const CopyItem& item, uint64_t version, const SlotRouting& routing,
                      Source& source) REQUIRES(mutex_);
  Result<TableId> FindTable(uint64_t salt) const REQUIRES(mutex_);
  void Forget(const SlotSet& slots) REQUIRES(mutex_);
  // Of slots that are `source`'s before and this server's after.
  Status TakeOver(ServerNumber number, const SlotSet& slots, const SlotRouting& before,
                  const SlotRouting& after) REQUIRES(mutex_);
  // Of slots that were this server's, and of which it keeps a copy.
  Status HandDown(ServerNumber owner, const SlotSet& slots) REQUIRES(mutex_);
  void Drop(const SlotSet& slots) REQUIRES(mutex_);
  void ClearTotals(const SlotSet& gone, const SlotRouting& after) REQUIRES(mutex_);

  Store& store_;
  AppliedPushes& applied_;
  const ServerNumber number_;
  // Held while a frame is repeated.
  Mutex mutex_;
  std::map<uint64_t, TableId> tables_ GUARDED_BY(mutex_);
  std::map<ServerNumber, Source> sources_ GUARDED_BY(mutex_);
};

}  // namespace embery
