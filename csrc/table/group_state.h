// What a slot group holds beside its rows, as it is saved and moved.
//
// Thread-safety: value types. Ownership: values. Invariant: tombstones are in the order of their
// deletions.
#pragma once

#include <cstdint>
#include <vector>

#include "table/admission.h"
#include "table/record.h"

namespace embery {

struct Counters {
  uint64_t admitted = 0;    // Rows inserted by pulls and pushes.
  uint64_t rejected = 0;    // Distinct keys of pushes that admission held back.
  uint64_t evicted = 0;     // Rows deleted by eviction, or started anew after their time-to-live.
  uint64_t deleted = 0;     // Rows deleted, for whatever reason, or started anew.
  uint64_t non_finite = 0;  // Distinct keys of pushes whose gradient was not finite.
  uint64_t updates = 0;     // Optimizer steps on rows.

  void Add(const Counters& other) {
    admitted += other.admitted;
    rejected += other.rejected;
    evicted += other.evicted;
    deleted += other.deleted;
    non_finite += other.non_finite;
    updates += other.updates;
  }
};

struct Tombstone {
  uint64_t mixed;
  Lsn lsn;
};

struct GroupState {
  Counters counters;
  std::vector<Lsn> slot_lsns;  // One a slot of the group.
  std::vector<Candidate> candidates;
  std::vector<Tombstone> tombstones;
  uint64_t tombstones_lost = 0;
  uint64_t candidates_forgotten = 0;
  uint64_t operation = 0;

  size_t bytes() const {
    return candidates.capacity() * sizeof(Candidate) + tombstones.capacity() * sizeof(Tombstone);
  }
};

}  // namespace embery
