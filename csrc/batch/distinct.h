// Distinct keys of a batch, in order of first appearance.
//
// Open addressing with linear probing at a load of at most one half. A slot carries the round in
// which it was filled, so that a new set costs no clearing and every 64-bit key is legal.
//
// Thread-safety: a finder is used by one thread at a time. Ownership: it keeps its slots from set
// to set, so that a training loop allocates once. Invariant: a slot belongs to the current set if
// and only if its round is the finder's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace embery {

// The position of a key among the distinct keys of its set.
using RowIndex = uint32_t;

class DistinctFinder {
 public:
  // Starts a new, empty set that will be given at most `keys_max` keys, duplicates counted.
  void Begin(size_t keys_max);

  // Adds `keys` to the set: each one not yet in it is appended to `distinct`, and `inverse[i]`
  // becomes the position of keys[i] there. Requires: `distinct` holds exactly the set so far, and
  // `inverse` has room for keys.size() values.
  void Add(std::span<const uint64_t> keys, std::vector<uint64_t>& distinct, RowIndex* inverse);

 private:
  struct Slot {
    uint64_t key;
    uint32_t round;
    RowIndex index;
  };

  std::vector<Slot> slots_;
  uint64_t mask_ = 0;
  uint32_t round_ = 0;  // 0 is the round of a slot never filled.
};

}  // namespace embery
