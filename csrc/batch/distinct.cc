#include "batch/distinct.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>

#include "base/hash.h"

namespace embery {
namespace {

// Keys whose slots are fetched before the first of them is probed: enough to hide a miss to memory.
constexpr size_t kAhead = 16;
constexpr size_t kSlotsMin = 64;

}  // namespace

void DistinctFinder::Begin(size_t keys_max) {
  const size_t wanted = std::max(kSlotsMin, std::bit_ceil(2 * keys_max));
  if (slots_.size() < wanted) slots_.assign(wanted, Slot{});
  if (++round_ == 0) {
    // The rounds are used up: forget them all.
    slots_.assign(slots_.size(), Slot{});
    round_ = 1;
  }
  // A small set stays in a small, cached part of the slots.
  mask_ = wanted - 1;
}

void DistinctFinder::Add(std::span<const uint64_t> keys, std::vector<uint64_t>& distinct,
                         RowIndex* inverse) {
  assert(distinct.size() + keys.size() <= slots_.size());
  std::array<uint64_t, kAhead> at;
  for (size_t begin = 0; begin < keys.size(); begin += kAhead) {
    const size_t count = std::min(kAhead, keys.size() - begin);
    for (size_t i = 0; i < count; ++i) {
      at[i] = Fmix64(keys[begin + i]) & mask_;
      __builtin_prefetch(&slots_[at[i]], 1);
    }
    for (size_t i = 0; i < count; ++i) {
      const uint64_t key = keys[begin + i];
      uint64_t where = at[i];
      while (slots_[where].round == round_ && slots_[where].key != key) where = (where + 1) & mask_;
      Slot& slot = slots_[where];
      if (slot.round != round_) {
        slot = {key, round_, static_cast<RowIndex>(distinct.size())};
        distinct.push_back(key);
      }
      inverse[begin + i] = slot.index;
    }
  }
}

}  // namespace embery
