// What a server does with a request: it checks tables and routing, calls the store, and joins the
// pushes of workers that step together. It remembers nothing else.
//
// A request is served whole or not at all: if the server does not own all its slots, or its routing
// is older than a slot's last change, the reply says how many keys were refused (`moved`). So it is
// with changes of slots that are frozen, because they are about to move. A push that comes again is
// applied to those of its slots that it was not applied to before. What changed rows is answered
// when the backups of this server have it.
//
// Thread-safety: all methods may be called from any thread. Ownership: borrows the store and the
// pool, which must outlive it. Invariant: when SetRouting returns, nothing is under way by the
// routing before.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/duration_histogram.h"
#include "base/hash.h"
#include "base/mutex.h"
#include "base/slot_set.h"
#include "server/applied_pushes.h"
#include "server/copies.h"
#include "server/followers.h"
#include "server/push_groups.h"
#include "server/slot_routing.h"
#include "table/store.h"
#include "transport/handler.h"

namespace embery {

struct ServiceStats {
  std::atomic<uint64_t> requests{0};
  std::atomic<uint64_t> rows_pulled{0};
  std::atomic<uint64_t> rows_pushed{0};
  std::atomic<uint64_t> moved{0};
  std::atomic<uint64_t> failed{0};
  // From the whole request to its reply, with what a push waits for those of other workers.
  DurationHistogram pull_time;
  DurationHistogram push_time;
};

class Service final : public Handler {
 public:
  Service(Store& store, BodyPool& pool, ServerNumber number, std::string secret)
      : store_(store),
        pool_(pool),
        number_(number),
        secret_(std::move(secret)),
        followers_(store, applied_, number),
        copies_(store, applied_, number) {}

  // kInvalidArgument if the salt belongs to another table, or there is no such table.
  Status AddTable(uint64_t salt, TableId table) EXCLUDES(gate_);

  // Of every slot: its owner, its backup, and the version in which the owner last changed. Slots
  // that this server owns no longer are forgotten, or become copies; copies become its slots. An
  // older version than the present one is ignored. kResourceExhausted: memory ran out.
  Status SetRouting(uint64_t version, std::span<const uint16_t> owners,
                    std::span<const uint16_t> backups, std::span<const uint64_t> changed_at)
      EXCLUDES(gate_);

  // Slots [begin, end) change no more until a newer routing comes; when this returns, nothing that
  // changes them is under way.
  void FreezeSlots(uint32_t begin, uint32_t end) EXCLUDES(gate_);

  // Applies a table's eviction policy; returns the number of rows evicted.
  size_t Evict(TableId table, uint32_t now_s) EXCLUDES(gate_);
  // See AppliedPushes.
  void RetireLeases(uint64_t before);
  // Rows were changed otherwise than by a request.
  void NoteChange();

  AppliedPushes& applied() { return applied_; }
  Followers& followers() { return followers_; }
  Copies& copies() { return copies_; }

  Status CheckHello(const Request& hello) override;
  Reply StatusReply(uint64_t request, const Status& status) override EXCLUDES(gate_);
  void Handle(Request request, Done done) override EXCLUDES(gate_);

  // Fails the pushes that wait for others.
  void Stop();

  const ServiceStats& stats() const { return stats_; }

 private:
  struct Routing {
    SlotRouting slots;
    uint64_t last_change = 0;
    bool owns_all = false;
    SlotSet frozen;
  };
  // What a request does to rows.
  enum class Access : uint8_t { kRead, kChange };
  // A push, and the slots of its keys.
  struct Part {
    const PushMessage* push;
    const SlotSet* slots;

    PushIdentity identity() const { return {push->head.client, push->head.sequence}; }
  };

  Status FindTables(const std::vector<SectionView>& sections, std::vector<TableId>& ids) const
      REQUIRES_SHARED(gate_);
  bool ServesAll(uint64_t version, Access access) const REQUIRES_SHARED(gate_);
  bool Serves(uint32_t slot, uint64_t version, Access access) const REQUIRES_SHARED(gate_);
  uint32_t CountMoved(const Part& part) const REQUIRES_SHARED(gate_);
  uint32_t CountMoved(uint64_t version, const std::vector<SectionView>& sections,
                      Access access) const REQUIRES_SHARED(gate_);
  Reply MakeReply(uint64_t request, ReplyHead head, std::string_view text,
                  std::span<const uint8_t> absent, Body rows) const;
  Reply Outcome(uint64_t request, const Status& status) REQUIRES_SHARED(gate_);
  Reply Moved(uint64_t request, uint32_t moved) REQUIRES_SHARED(gate_);
  Body TakeRows(const Request& request, size_t absent_count, size_t bytes);
  void Pull(const Request& request, const Done& done) EXCLUDES(gate_);
  Reply PullRows(const Request& request, const PullMessage& message, uint64_t& cut)
      REQUIRES_SHARED(gate_);
  Status ReadRows(std::span<const PullRequest> requests, const PullHead& pull, uint64_t& cut);
  Reply Repeat(const Request& request) EXCLUDES(gate_);
  // Answers with `reply` once backups have `cut`; or that `keys` keys were refused, if another
  // server turns out to own them.
  void Answer(uint64_t cut, Reply reply, uint64_t request, uint64_t keys, const Done& done)
      EXCLUDES(gate_);
  void Push(Request request, Done done) EXCLUDES(gate_);
  // Slots that are here, and were not yet by the routing of `version`.
  SlotSet ArrivedSince(uint64_t version) const REQUIRES_SHARED(gate_);
  // Applies pushes joined into one; they are known from then on, and safe with `cut`.
  Status Apply(std::span<const Part> parts, uint64_t& cut) REQUIRES_SHARED(gate_);
  // Where the gradients of each section are as float32: in the body, or in `decoded`.
  Status DecodeGradients(const std::vector<SectionView>& sections, Body& decoded,
                         std::vector<const float*>& grads);
  Status ApplyClaimed(std::span<const Part> parts, std::span<const AppliedPushes::Claim> claims)
      REQUIRES_SHARED(gate_);
  void ApplyGroup(std::vector<Contribution> group) EXCLUDES(gate_);
  void FailAll(const std::vector<Contribution>& contributions, const Status& status)
      EXCLUDES(gate_);

  Store& store_;
  BodyPool& pool_;
  const ServerNumber number_;
  const std::string secret_;
  // Held shared by whatever is being served.
  SharedMutex gate_;
  std::unordered_map<uint64_t, TableId> tables_ GUARDED_BY(gate_);
  Routing routing_ GUARDED_BY(gate_);
  PushGroups groups_;
  AppliedPushes applied_;
  Followers followers_;
  Copies copies_;
  ServiceStats stats_;
};

}  // namespace embery
