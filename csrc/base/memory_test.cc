#include "base/memory.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "base/testing.h"

namespace embery {
namespace {

// Both sides of each border: heap, mapping, mapping on huge pages.
constexpr size_t kSizes[] = {1,
                             63,
                             64,
                             65,
                             4096,
                             (size_t{256} << 10) - 1,
                             size_t{256} << 10,
                             (size_t{1} << 20) + 17,
                             kHugePageBytes - 1,
                             kHugePageBytes,
                             3 * kHugePageBytes + 1};

bool IsZero(const Region& region) {
  return std::all_of(region.data(), region.data() + region.bytes(),
                     [](std::byte byte) { return byte == std::byte{0}; });
}

TEST(MemoryIsZeroedAlignedAndWritableToItsEnd) {
  for (const size_t bytes : kSizes) {
    const Region region = Region::Allocate(bytes);
    REQUIRE_TRUE(region);
    CHECK_TRUE(region.bytes() >= bytes);
    CHECK_EQ(reinterpret_cast<uintptr_t>(region.data()) % kCacheLineBytes, size_t{0});
    CHECK_TRUE(IsZero(region));
    std::fill_n(region.data(), region.bytes(), std::byte{0xff});
  }
}

TEST(LargeMemoryStartsOnAHugePage) {
  const Region region = Region::Allocate(2 * kHugePageBytes);
  CHECK_EQ(reinterpret_cast<uintptr_t>(region.data()) % kHugePageBytes, size_t{0});
}

TEST(MemoryIsZeroedAgainAfterAnotherUse) {
  for (const size_t bytes : kSizes) {
    for (int round = 0; round < 3; ++round) {
      const Region region = Region::Allocate(bytes);
      REQUIRE_TRUE(region);
      CHECK_TRUE(IsZero(region));
      std::fill_n(region.data(), region.bytes(), std::byte{0x5a});
    }
  }
}

TEST(MovingHandsTheMemoryOver) {
  for (const size_t bytes : kSizes) {
    Region first = Region::Allocate(bytes);
    std::byte* const data = first.data();
    *data = std::byte{7};
    Region second = std::move(first);
    CHECK_TRUE(second.data() == data);
    Region third = Region::Allocate(64);
    third = std::move(second);
    CHECK_TRUE(third.data() == data);
    CHECK_TRUE(*third.data() == std::byte{7});
  }
}

TEST(ADefaultRegionIsEmpty) {
  const Region region;
  CHECK_TRUE(!region);
  CHECK_EQ(region.bytes(), size_t{0});
}

TEST(MoreThanTheAddressSpaceGivesAnEmptyRegion) {
  const Region region = Region::Allocate(size_t{1} << 62);
  CHECK_TRUE(!region);
  CHECK_EQ(region.bytes(), size_t{0});
}

}  // namespace
}  // namespace embery

EMBERY_TEST_MAIN()
