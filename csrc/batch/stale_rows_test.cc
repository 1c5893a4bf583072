#include "batch/stale_rows.h"

#include <random>
#include <unordered_map>

#include "base/testing.h"

namespace embery {
namespace {

constexpr uint64_t kSalt = 77;

std::vector<RowIndex> Stale(const RecentPushes& pushes, const std::vector<uint64_t>& keys,
                            uint64_t since) {
  std::vector<RowIndex> rows;
  pushes.FindStale(kSalt, keys, std::vector<uint8_t>(keys.size(), 0), since, rows);
  return rows;
}

TEST(AKeyIsStaleForReadersOlderThanItsPush) {
  RecentPushes pushes(16);
  pushes.Record(kSalt, std::vector<uint64_t>{5, 0}, 3);
  CHECK_TRUE((Stale(pushes, {4, 5, 0}, 2) == std::vector<RowIndex>{1, 2}));
  CHECK_TRUE(Stale(pushes, {4, 5, 0}, 3).empty());
}

TEST(APushToAnotherTableIsNotThisOnes) {
  RecentPushes pushes(16);
  pushes.Record(kSalt + 1, std::vector<uint64_t>{5}, 1);
  CHECK_TRUE(Stale(pushes, {5}, 0).empty());
}

TEST(NoStaleKeyIsMissedHoweverFewTheStamps) {
  std::mt19937_64 random(5);
  RecentPushes pushes(4);
  std::unordered_map<uint64_t, uint64_t> last;
  for (uint64_t number = 1; number <= 200; ++number) {
    std::vector<uint64_t> keys(random() % 5);
    for (uint64_t& key : keys) last[key = random() % 100] = number;
    pushes.Record(kSalt, keys, number);
    const uint64_t since = number - random() % 4;
    for (const auto& [key, pushed] : last) {
      if (pushed > since) CHECK_EQ(Stale(pushes, {key}, since).size(), size_t{1});
    }
  }
}

TEST(StaleRowsAreSelectedAndPatched) {
  auto layout = std::make_shared<BatchLayout>();
  layout->table_dims = {1, 2};
  layout->features = {{"a", 0, Pooling::kSum}, {"b", 1, Pooling::kSum}};
  REQUIRE_TRUE(layout->Finish().ok());
  ThreadPool pool(1);
  Planner planner(layout, &pool);
  const auto plan = planner.Plan({std::vector<uint64_t>{1, 2, 3, 4, 5},
                                  std::vector<int64_t>{3, 2},
                                  {},
                                  std::vector<uint32_t>{0, 1},
                                  1});
  REQUIRE_TRUE(plan.ok());
  RecentPushes pushes(16);
  pushes.Record(10, std::vector<uint64_t>{3}, 9);
  const std::vector<uint8_t> absent = {1, 0, 0, 0, 0};
  const std::vector<uint64_t> salts = {10, 20};
  const std::vector<uint8_t> all_stale = {0, 1};
  const RowSubset subset =
      SelectStale(*plan.value(), {absent, salts, all_stale, /*since=*/8}, pushes);
  CHECK_TRUE((subset.rows[0] == std::vector<RowIndex>{0, 2}));
  CHECK_TRUE((subset.keys[0] == std::vector<uint64_t>{1, 3}));
  CHECK_TRUE((subset.keys[1] == std::vector<uint64_t>{4, 5}));
  CHECK_EQ(subset.floats, size_t{6});
  std::vector<float> rows(7, 0.0f);
  const std::vector<float> fresh = {1, 2, 3, 4, 5, 6};
  CopyRows(*plan.value(), subset, fresh.data(), rows.data());
  CHECK_TRUE((rows == std::vector<float>{1, 0, 2, 3, 4, 5, 6}));
}

}  // namespace
}  // namespace embery

EMBERY_TEST_MAIN()
