// Mixing of keys: from a 64-bit key to slot, group and index position, and back.
//
// Thread-safety: pure functions. Invariant: for a fixed salt, MixKey is a bijection on 64-bit
// values and UnmixKey its inverse, so a row stores only what its slot and index entry do not
// already say. The mix is version 1: golden values in hash_test.cc must never change.
#pragma once

#include <cstdint>

namespace embery {

inline constexpr int kSlotBits = 12;
inline constexpr uint32_t kSlotCount = 1u << kSlotBits;
inline constexpr int kGroupBits = 6;
inline constexpr uint32_t kGroupCount = 1u << kGroupBits;
inline constexpr uint32_t kSlotsPerGroup = kSlotCount / kGroupCount;

// The finaliser of MurmurHash3 (Austin Appleby, public domain).
constexpr uint64_t Fmix64(uint64_t x) {
  x ^= x >> 33;
  x *= 0xff51afd7ed558ccdULL;
  x ^= x >> 33;
  x *= 0xc4ceb9fe1a85ec53ULL;
  x ^= x >> 33;
  return x;
}

// The inverse: a shift of 33 undoes itself, each factor is replaced by its inverse modulo 2^64.
constexpr uint64_t Unfmix64(uint64_t x) {
  x ^= x >> 33;
  x *= 0x9cb4b2f8129337dbULL;
  x ^= x >> 33;
  x *= 0x4f74430c22a54005ULL;
  x ^= x >> 33;
  return x;
}

// A key after mixing. Its bits, from the top: 6 group, 6 slot within the group, 26 more of the
// index tag, 26 kept in the record.
struct MixedKey {
  uint64_t bits;

  friend constexpr bool operator==(MixedKey, MixedKey) = default;
};

constexpr MixedKey MixKey(uint64_t salt, uint64_t key) { return {Fmix64(key ^ salt)}; }
constexpr uint64_t UnmixKey(uint64_t salt, MixedKey mixed) { return Unfmix64(mixed.bits) ^ salt; }

constexpr uint32_t SlotOf(MixedKey mixed) {
  return static_cast<uint32_t>(mixed.bits >> (64 - kSlotBits));
}
constexpr uint32_t GroupOf(MixedKey mixed) {
  return static_cast<uint32_t>(mixed.bits >> (64 - kGroupBits));
}

inline constexpr int kLowBits = 26;
inline constexpr uint64_t kLowMask = (uint64_t{1} << kLowBits) - 1;

// The 32 bits below the group: what an index entry stores, and what orders it within its group.
constexpr uint32_t TagOf(MixedKey mixed) { return static_cast<uint32_t>(mixed.bits >> kLowBits); }
constexpr uint32_t LowOf(MixedKey mixed) { return static_cast<uint32_t>(mixed.bits & kLowMask); }

constexpr MixedKey JoinMixed(uint32_t group, uint32_t tag, uint32_t low) {
  return {uint64_t{group} << (64 - kGroupBits) | uint64_t{tag} << kLowBits | low};
}
constexpr uint32_t SlotInGroup(uint32_t tag) { return tag >> (32 - (kSlotBits - kGroupBits)); }

}  // namespace embery
