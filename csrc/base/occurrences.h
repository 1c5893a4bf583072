// Positions grouped by what stands there, as gradients are summed by key.
//
// Thread-safety: a pure function.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

namespace embery {

// A counting sort: group_of[i] is the group of the i-th item, and `ends[g]` how many items group g
// has. Lays position(i) down in `occurrences`, group by group, those of a group in the order of
// the items, and sets `ends[g]` to the end of group g there.
template <typename Position>
void GroupPositions(std::span<const uint32_t> group_of, Position position, std::span<uint32_t> ends,
                    uint32_t* occurrences) {
  uint32_t start = 0;
  for (uint32_t& end : ends) start += std::exchange(end, start);
  // Each start moves to its end while the positions are laid down.
  for (size_t i = 0; i < group_of.size(); ++i) occurrences[ends[group_of[i]]++] = position(i);
}

}  // namespace embery
