// Which bucket a duration falls into, and that none is lost.
#include "base/duration_histogram.h"

#include <thread>
#include <vector>

#include "base/testing.h"

namespace embery {
namespace {

using std::chrono::nanoseconds;

size_t BucketOf(nanoseconds took) {
  DurationHistogram histogram;
  histogram.Add(took);
  size_t found = DurationHistogram::kBounds + 1;
  for (size_t bucket = 0; bucket <= DurationHistogram::kBounds; ++bucket) {
    if (histogram.count(bucket) == 1) found = bucket;
  }
  return found;
}

TEST(BoundBelongsToTheBucketBelowIt) {
  CHECK_EQ(BucketOf(nanoseconds(-5)), size_t{0});
  CHECK_EQ(BucketOf(nanoseconds(0)), size_t{0});
  for (size_t bucket = 0; bucket < DurationHistogram::kBounds; ++bucket) {
    const nanoseconds bound = DurationHistogram::Bound(bucket);
    CHECK_EQ(BucketOf(bound), bucket);
    CHECK_EQ(BucketOf(bound + nanoseconds(1)), bucket + 1);
  }
  CHECK_EQ(BucketOf(std::chrono::hours(24)), DurationHistogram::kBounds);
}

TEST(NothingIsLostBetweenThreads) {
  constexpr int kThreads = 4;
  constexpr int kEach = 10'000;
  DurationHistogram histogram;
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&histogram] {
      for (int n = 0; n < kEach; ++n) histogram.Add(nanoseconds(n));
    });
  }
  for (std::thread& thread : threads) thread.join();
  uint64_t total = 0;
  for (size_t bucket = 0; bucket <= DurationHistogram::kBounds; ++bucket) {
    total += histogram.count(bucket);
  }
  CHECK_EQ(total, uint64_t{kThreads * kEach});
  CHECK_EQ(histogram.sum().count(), int64_t{kThreads} * kEach * (kEach - 1) / 2);
}

}  // namespace
}  // namespace embery

EMBERY_TEST_MAIN()
