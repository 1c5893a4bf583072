// A set of slots, one bit each.
//
// Thread-safety: as for any value.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "base/hash.h"

namespace embery {

class SlotSet {
 public:
  // Slots [begin, end).
  static SlotSet Range(uint32_t begin, uint32_t end) {
    SlotSet slots;
    for (uint32_t slot = begin; slot < end; ++slot) slots.Add(slot);
    return slots;
  }

  void Add(uint32_t slot) { words_[slot / 64] |= uint64_t{1} << slot % 64; }
  void Add(const SlotSet& other) {
    for (size_t w = 0; w < words_.size(); ++w) words_[w] |= other.words_[w];
  }
  void Remove(uint32_t slot) { words_[slot / 64] &= ~(uint64_t{1} << slot % 64); }
  void Remove(const SlotSet& other) {
    for (size_t w = 0; w < words_.size(); ++w) words_[w] &= ~other.words_[w];
  }
  bool Meets(const SlotSet& other) const {
    uint64_t common = 0;
    for (size_t w = 0; w < words_.size(); ++w) common |= words_[w] & other.words_[w];
    return common != 0;
  }
  bool Covers(const SlotSet& other) const {
    for (size_t w = 0; w < words_.size(); ++w) {
      if ((other.words_[w] & ~words_[w]) != 0) return false;
    }
    return true;
  }
  // Whether any of the 64 slots of a group is here.
  bool MeetsGroup(uint32_t group) const { return words_[group] != 0; }
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

  // Calls visit(begin, end) for the runs of slots that follow each other within a group.
  template <typename Visit>
  void ForEachRun(Visit visit) const {
    for (uint32_t w = 0; w < words_.size(); ++w) {
      uint64_t word = words_[w];
      while (word != 0) {
        const auto begin = static_cast<uint32_t>(std::countr_zero(word));
        const auto count = static_cast<uint32_t>(std::countr_one(word >> begin));
        visit(w * 64 + begin, w * 64 + begin + count);
        word &= count == 64 ? 0 : ~(((uint64_t{1} << count) - 1) << begin);
      }
    }
  }

  friend bool operator==(const SlotSet&, const SlotSet&) = default;

 private:
  static_assert(kSlotsPerGroup == 64);
  std::array<uint64_t, kGroupCount> words_{};
};

}  // namespace embery
