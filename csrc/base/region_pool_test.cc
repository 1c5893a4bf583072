#include "base/region_pool.h"

#include <cstring>

#include "base/testing.h"

namespace embery {
namespace {

constexpr size_t kMiB = size_t{1} << 20;

TEST(AReturnedRegionServesTheNextRequestOfItsSize) {
  RegionPool pool;
  Region first = pool.Take(4 * kMiB);
  CHECK_TRUE(first);
  std::memset(first.data(), 1, first.bytes());
  const std::byte* data = first.data();
  pool.Return(std::move(first));
  CHECK_EQ(pool.idle_bytes(), 4 * kMiB);
  const Region again = pool.Take(3 * kMiB);
  CHECK_TRUE(again.data() == data);
  CHECK_EQ(pool.idle_bytes(), size_t{0});
}

TEST(ARegionThatIsTooSmallOrMuchTooLargeStaysIdle) {
  RegionPool pool;
  pool.Return(pool.Take(4 * kMiB));
  CHECK_TRUE(pool.Take(5 * kMiB).bytes() >= 5 * kMiB);
  CHECK_TRUE(pool.Take(kMiB).bytes() < 2 * kMiB);
  CHECK_EQ(pool.idle_bytes(), 4 * kMiB);
}

TEST(IdleMemoryHasALimitAndTheOldestGoes) {
  RegionPool pool;
  pool.Return(pool.Take(RegionPool::kBytesMax / 2));
  pool.Return(pool.Take(RegionPool::kBytesMax / 4 * 3));
  CHECK_EQ(pool.idle_bytes(), RegionPool::kBytesMax / 4 * 3);
  pool.Return(pool.Take(2 * RegionPool::kBytesMax));
  CHECK_EQ(pool.idle_bytes(), size_t{0});
}

}  // namespace
}  // namespace embery

EMBERY_TEST_MAIN()
