// Whose each slot is, and who has a copy of it.
//
// Thread-safety: as for any value.
#pragma once

#include <array>
#include <cstdint>

#include "base/hash.h"
#include "base/slot_set.h"
#include "server/server_number.h"

namespace embery {

struct SlotRouting {
  SlotRouting() { owners.fill(kNoServer), backups.fill(kNoServer); }

  uint64_t version = 0;
  std::array<ServerNumber, kSlotCount> owners;
  std::array<ServerNumber, kSlotCount> backups;
  std::array<uint64_t, kSlotCount> changed_at{};

  bool OwnsAnyOf(ServerNumber server, uint32_t group) const {
    return LowestOf(server, group) != kSlotCount;
  }
  // The first slot of a group that a server owns; kSlotCount if there is none.
  uint32_t LowestOf(ServerNumber server, uint32_t group) const {
    for (uint32_t slot = group * kSlotsPerGroup; slot < (group + 1) * kSlotsPerGroup; ++slot) {
      if (owners[slot] == server) return slot;
    }
    return kSlotCount;
  }
};

}  // namespace embery
