#include "batch/plan.h"

#include <limits>

#include "base/testing.h"

namespace embery {
namespace {

std::shared_ptr<const BatchLayout> Layout(std::vector<uint32_t> dims,
                                          std::vector<FeatureSpec> features) {
  auto layout = std::make_shared<BatchLayout>();
  layout->table_dims = std::move(dims);
  layout->features = std::move(features);
  const Status status = layout->Finish();
  CHECK_TRUE(status.ok());
  return layout;
}

// Features a and c read table 0, b reads table 1; the batch holds them as b, x, c, a. Two samples.
struct Fixture {
  std::shared_ptr<const BatchLayout> layout =
      Layout({2, 3}, {{"a", 0, Pooling::kSum}, {"b", 1, Pooling::kSum}, {"c", 0, Pooling::kMean}});
  std::vector<uint64_t> values = {5, 5, 6, /*x*/ 1, /*c*/ 8, 9, /*a*/ 9, 7};
  std::vector<int64_t> lengths = {1, 2, 0, 1, 2, 0, 1, 1};
  std::vector<float> weights;
  std::vector<uint32_t> positions = {3, 0, 2};
  ThreadPool pool{1};
  Planner planner{layout, &pool};

  Result<std::shared_ptr<const BatchPlan>> Plan() {
    return planner.Plan({values, lengths, weights, positions, 2});
  }
};

TEST(RowsOfATableAreSharedByItsFeaturesInLayoutOrder) {
  Fixture fixture;
  const auto plan = fixture.Plan();
  REQUIRE_TRUE(plan.ok());
  const BatchPlan& p = *plan.value();
  CHECK_TRUE((p.keys[0] == std::vector<uint64_t>{9, 7, 8}));
  CHECK_TRUE((p.keys[1] == std::vector<uint64_t>{5, 6}));
  CHECK_TRUE((p.rows == std::vector<RowIndex>{0, 1, 0, 0, 1, 2, 0}));
  CHECK_TRUE((p.bag_begin == std::vector<uint32_t>{0, 1, 2, 3, 5, 7, 7}));
  CHECK_TRUE((p.row_begin == std::vector<size_t>{0, 6, 12}));
  CHECK_TRUE((p.batch_begin == std::vector<size_t>{6, 0, 4}));
  CHECK_EQ(p.layout->columns, size_t{7});
}

TEST(WeightsFollowTheirValues) {
  Fixture fixture;
  fixture.weights = {0, 1, 2, 3, 4, 5, 6, 7};
  const auto plan = fixture.Plan();
  REQUIRE_TRUE(plan.ok());
  CHECK_TRUE((plan.value()->weights == std::vector<float>{6, 7, 0, 1, 2, 4, 5}));
}

void ExpectRefused(Fixture& fixture, const char* message) {
  const auto plan = fixture.Plan();
  REQUIRE_TRUE(!plan.ok());
  CHECK_EQ(StatusCodeName(plan.status().code()), std::string("INVALID_ARGUMENT"));
  CHECK_EQ(plan.status().message(), message);
}

TEST(ANegativeLengthIsRefused) {
  Fixture fixture;
  fixture.lengths[4] = -2;
  ExpectRefused(fixture, "lengths[4] must lie in [0, 2147483647], got -2");
}

TEST(AWrongSumOfLengthsIsRefused) {
  Fixture fixture;
  fixture.lengths[4] = 3;
  ExpectRefused(fixture, "the lengths add up to 9, but there are 8 values");
}

TEST(AWeightThatIsNotFiniteIsRefused) {
  Fixture fixture;
  fixture.weights.assign(8, 1.0f);
  fixture.weights[5] = std::numeric_limits<float>::infinity();
  ExpectRefused(fixture, "weight 1 of feature 'c' is not finite: inf");
}

TEST(AWeightOfAnUnusedFeatureIsNotLookedAt) {
  Fixture fixture;
  fixture.weights.assign(8, 1.0f);
  fixture.weights[3] = std::numeric_limits<float>::quiet_NaN();
  CHECK_TRUE(fixture.Plan().ok());
}

TEST(AnEmptyBatchHasAPlan) {
  Fixture fixture;
  const auto plan = fixture.planner.Plan({{}, {}, {}, fixture.positions, 0});
  REQUIRE_TRUE(plan.ok());
  CHECK_EQ(plan.value()->FloatCount(), size_t{0});
  CHECK_TRUE(plan.value()->keys[0].empty());
}

TEST(ALayoutWithAnUnknownTableIsRefused) {
  BatchLayout layout;
  layout.table_dims = {4};
  layout.features = {{"a", 1, Pooling::kSum}};
  const Status status = layout.Finish();
  CHECK_EQ(status.message(), "feature 'a' names table number 1 of 1");
}

}  // namespace
}  // namespace embery

EMBERY_TEST_MAIN()
