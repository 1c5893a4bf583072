// Pushes of workers that step together: held until those of all ranks of a round are in.
//
// Thread-safety: all methods may be called from any thread. Ownership: owns what it holds, bodies
// included. Invariants: a rank has one push a round; at most kGroupsMax rounds wait.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include "base/mutex.h"
#include "base/slot_set.h"
#include "base/status.h"
#include "optim/kernels.h"
#include "transport/handler.h"
#include "wire/messages.h"

namespace embery {

struct Contribution {
  Request request;
  PushMessage message;  // Borrows the request's body.
  SlotSet slots;        // Of its keys.
  Handler::Done done;
};

class PushGroups {
 public:
  static constexpr size_t kGroupsMax = 64;

  struct Outcome {
    std::vector<Contribution> complete;  // All of one round, in rank order; empty while some miss.
    std::vector<Contribution> given_up;  // To be answered with kUnavailable.
    Status refusal;                      // Of the push itself, which `refused` then holds.
    std::vector<Contribution> refused;
  };

  // A rank that pushes a round has given up the unfinished rounds before it; an earlier push of the
  // same round by the same client is a try that this one replaces; and a push whose sender no
  // longer waits is dropped.
  Outcome Add(Contribution contribution) EXCLUDES(mutex_);

  // All that waits, for a server that stops.
  std::vector<Contribution> TakeAll() EXCLUDES(mutex_);

 private:
  struct Group {
    uint32_t world;
    std::map<uint32_t, Contribution> by_rank;
  };
  using Groups = std::map<uint64_t, Group>;

  static void MoveOut(Groups::node_type group, std::vector<Contribution>& to);
  void DropAbandoned(std::vector<Contribution>& to) REQUIRES(mutex_);
  void GiveUpBefore(uint64_t round, uint32_t rank, std::vector<Contribution>& to) REQUIRES(mutex_);

  Mutex mutex_;
  Groups groups_ GUARDED_BY(mutex_);  // By round.
};

// The sections of several pushes joined by table as float32, each table's keys in the order of the
// pushes. Requires: sections of one table agree in dim; they may differ in encoding.
class JoinedPush {
 public:
  // Without the keys whose slot is in `done`.
  void Add(const Kernels& kernels, const PushMessage& push, const SlotSet& done);

  const std::vector<SectionView>& sections();

 private:
  std::vector<SectionView> sections_;
  std::vector<std::vector<uint64_t>> keys_;
  std::vector<std::vector<float>> grads_;
};

}  // namespace embery
