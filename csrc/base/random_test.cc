#include "base/random.h"

#include "base/testing.h"

namespace embery {
namespace {

// The inverse of SplitMix64, to find the arguments of its extreme values.
constexpr uint64_t InverseSplitMix64(uint64_t x) {
  x = (x ^ (x >> 31) ^ (x >> 62)) * 0x319642b2d24d8ec3ULL;
  x = (x ^ (x >> 27) ^ (x >> 54)) * 0x96de1b173f119089ULL;
  return (x ^ (x >> 30) ^ (x >> 60)) - 0x9e3779b97f4a7c15ULL;
}

TEST(SplitMixGivesThePublishedValues) {
  CHECK_EQ(SplitMix64(0), 0xe220a8397b1dcdafULL);
  CHECK_EQ(SplitMix64(1), 0x910a2dec89025cc1ULL);
  CHECK_EQ(SplitMix64(42), 0xbdd732262feb6e95ULL);
  CHECK_EQ(SplitMix64(uint64_t{1} << 63), 0x481ec0a212a9f3dbULL);
  CHECK_EQ(SplitMix64(~uint64_t{0}), 0xe4d971771b652c20ULL);
}

TEST(StreamOfASeedAndKeyIsTheGoldenOne) {
  constexpr RandomStream kStream(7, 42);
  CHECK_EQ(kStream.At(0), 0x26dfada5d87fe2d5ULL);
  CHECK_EQ(kStream.At(1), 0xec06e117312b3510ULL);
  CHECK_EQ(kStream.At(2), 0xe0c690c85ec13ff2ULL);
  CHECK_EQ(kStream.UnitAt(0), 0x1.36fd6d2ec3ff4p-3);
  CHECK_EQ(kStream.UnitAt(1), 0x1.d80dc22e62567p-1);
}

TEST(SeedAndKeyAreNotInterchangeable) {
  CHECK_TRUE(RandomStream(7, 42).At(0) != RandomStream(42, 7).At(0));
  CHECK_TRUE(RandomStream(0, 1).At(0) != RandomStream(0, 2).At(0));
  CHECK_TRUE(RandomStream(1, 0).At(0) != RandomStream(2, 0).At(0));
}

TEST(UnitNumbersAreNeverAnEndPoint) {
  constexpr RandomStream kStream(3, 9);
  const uint64_t base = InverseSplitMix64(kStream.At(0));
  for (const uint64_t low : {uint64_t{0}, uint64_t{0x7ff}, uint64_t{0xfff}}) {
    const uint64_t smallest = InverseSplitMix64(low) - base;
    const uint64_t largest = InverseSplitMix64(~uint64_t{0} - low) - base;
    CHECK_EQ(kStream.At(smallest), low);
    CHECK_TRUE(kStream.UnitAt(smallest) > 0.0);
    CHECK_TRUE(kStream.UnitAt(largest) < 1.0);
    CHECK_EQ(kStream.UnitAt(smallest), 1.0 - kStream.UnitAt(largest));
  }
}

TEST(UnitNumbersHaveTheMomentsOfTheUniformDistribution) {
  constexpr int kCount = 1 << 18;
  const RandomStream stream(11, 13);
  double sum = 0;
  double squares = 0;
  for (int i = 0; i < kCount; ++i) {
    const double unit = stream.UnitAt(static_cast<uint64_t>(i));
    sum += unit;
    squares += unit * unit;
  }
  // Six standard errors of the mean, and more than six of the second moment.
  CHECK_TRUE(sum / kCount > 0.5 - 0.0034 && sum / kCount < 0.5 + 0.0034);
  CHECK_TRUE(squares / kCount > 1.0 / 3 - 0.0036 && squares / kCount < 1.0 / 3 + 0.0036);
}

}  // namespace
}  // namespace embery

EMBERY_TEST_MAIN()
