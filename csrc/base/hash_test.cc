#include "base/hash.h"

#include <random>
#include <vector>

#include "base/testing.h"

namespace embery {
namespace {

constexpr uint64_t kLast = ~uint64_t{0};

struct Golden {
  uint64_t salt;
  uint64_t key;
  uint64_t mixed;
  uint32_t slot;
};

// Computed once, by an implementation of the finaliser in Python. A change of any of them would
// make every saved table unreadable.
constexpr Golden kGolden[] = {
    {0, 0, 0, 0},
    {0, 1, 0xb456bcfc34c2cb2c, 2885},
    {0, 2, 0x3abf2a20650683e7, 939},
    {0, 42, 0x810879608e4259cc, 2064},
    {0, uint64_t{1} << 63, 0x8f780810af31a493, 2295},
    {0, 0xdeadbeefcafef00d, 0x97242897596c395d, 2418},
    {0, kLast, 0x64b5720b4b825f21, 1611},
    {0x9ae16a3b2f90404f, 0, 0xc3b9706cda130dd2, 3131},
    {0x9ae16a3b2f90404f, 1, 0xa59e07b7d76b7ce4, 2649},
    {0x9ae16a3b2f90404f, uint64_t{1} << 63, 0x01583ec9458a8241, 21},
    {0x9ae16a3b2f90404f, kLast, 0x0363b5fbe5045fc7, 54},
    {kLast, 0, 0x64b5720b4b825f21, 1611},
    {kLast, 42, 0x14e1b569064d7c07, 334},
    {kLast, kLast, 0, 0},
};

// Zero, all ones, and every single bit alone and missing.
std::vector<uint64_t> EdgeKeys() {
  std::vector<uint64_t> keys = {0, kLast};
  for (int bit = 0; bit < 64; ++bit) {
    keys.push_back(uint64_t{1} << bit);
    keys.push_back(~(uint64_t{1} << bit));
  }
  return keys;
}

TEST(HashesAndSlotsAreTheGoldenOnes) {
  for (const Golden& golden : kGolden) {
    const MixedKey mixed = MixKey(golden.salt, golden.key);
    CHECK_EQ(mixed.bits, golden.mixed);
    CHECK_EQ(SlotOf(mixed), golden.slot);
  }
}

TEST(MixingIsUndone) {
  std::mt19937_64 random(1);
  std::vector<uint64_t> keys = EdgeKeys();
  for (int i = 0; i < 100000; ++i) keys.push_back(random());
  for (const uint64_t salt : {uint64_t{0}, kLast, random()}) {
    for (const uint64_t key : keys) {
      CHECK_EQ(UnmixKey(salt, MixKey(salt, key)), key);
      CHECK_EQ(MixKey(salt, UnmixKey(salt, {key})).bits, key);
    }
  }
}

TEST(SlotIsTheTopTwelveBitsAndGroupTheTopSix) {
  for (const uint64_t bits : EdgeKeys()) {
    CHECK_EQ(SlotOf({bits}), bits >> 52);
    CHECK_EQ(GroupOf({bits}), bits >> 58);
    CHECK_EQ(SlotOf({bits}), GroupOf({bits}) * kSlotsPerGroup + SlotInGroup(TagOf({bits})));
  }
  CHECK_EQ(SlotOf({kLast}), kSlotCount - 1);
  CHECK_EQ(GroupOf({kLast}), kGroupCount - 1);
}

TEST(GroupTagAndLowBitsAreTheWholeKey) {
  std::mt19937_64 random(2);
  std::vector<uint64_t> all = EdgeKeys();
  for (int i = 0; i < 1000; ++i) all.push_back(random());
  for (const uint64_t bits : all) {
    const MixedKey mixed{bits};
    CHECK_EQ(JoinMixed(GroupOf(mixed), TagOf(mixed), LowOf(mixed)).bits, bits);
  }
}

TEST(ConsecutiveKeysSpreadEvenlyOverSlots) {
  constexpr uint32_t kKeysPerSlot = 64;
  std::vector<uint32_t> counts(kSlotCount);
  for (uint64_t key = 0; key < uint64_t{kSlotCount} * kKeysPerSlot; ++key) {
    ++counts[SlotOf(MixKey(0x9ae16a3b2f90404f, key))];
  }
  double chi_square = 0;
  for (const uint32_t count : counts) {
    const double difference = static_cast<double>(count) - kKeysPerSlot;
    chi_square += difference * difference / kKeysPerSlot;
  }
  // Mean kSlotCount - 1 and standard deviation 90 if slots were drawn by lot.
  CHECK_TRUE(chi_square > kSlotCount - 5 * 91);
  CHECK_TRUE(chi_square < kSlotCount + 5 * 91);
}

}  // namespace
}  // namespace embery

EMBERY_TEST_MAIN()
