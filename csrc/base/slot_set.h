// A set of slots, one bit each.
//
// Thread-safety: as for any value.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>

#include "base/hash.h"

namespace embery {

class SlotSet {
 public:
  void Add(uint32_t slot) { words_[slot / 64] |= uint64_t{1} << slot % 64; }
  bool Contains(uint32_t slot) const { return (words_[slot / 64] >> slot % 64 & 1) != 0; }
  bool empty() const {
    return std::all_of(words_.begin(), words_.end(), [](uint64_t word) { return word == 0; });
  }

  // Calls visit(slot) in ascending order.
  template <typename Visit>
  void ForEach(Visit visit) const {
    for (uint32_t w = 0; w < words_.size(); ++w) {
      for (uint64_t word = words_[w]; word != 0; word &= word - 1) {
        visit(w * 64 + static_cast<uint32_t>(std::countr_zero(word)));
      }
    }
  }

  friend bool operator==(const SlotSet&, const SlotSet&) = default;

 private:
  std::array<uint64_t, kSlotCount / 64> words_{};
};

}  // namespace embery
