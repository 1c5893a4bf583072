#include "optim/initializer.h"

#include <cmath>
#include <vector>

#include "base/testing.h"
#include "optim/kernels.h"

namespace embery {
namespace {

constexpr uint64_t kLast = ~uint64_t{0};

std::vector<float> ValuesOf(const InitializerSpec& spec, uint64_t key, uint32_t dim) {
  std::vector<float> values(dim);
  InitializeValues(spec, key, dim, values.data());
  return values;
}

double RelativeError(double got, double expected) {
  return std::abs(got - expected) / std::abs(expected);
}

// ---- the quantile of the normal distribution ----------------------------------------------------

struct Quantile {
  double p;
  double value;
};

// Computed with 60 digits. The first three are the checks of AS 241's own paper; the others lie on
// both sides of the borders between its three approximations.
constexpr Quantile kQuantiles[] = {
    {0.25, -0.6744897501960817432},  {0.001, -3.0902323061678135354},
    {1e-20, -9.2623400897984075796}, {0.075, -1.4395314709384559349},
    {0.4, -0.25334710313579974132},  {0.6, 0.25334710313579974132},
    {0.925, 1.4395314709384562291},  {0.97, 1.8807936081512505473},
};

TEST(QuantilesOfTheNormalDistributionAreExactToFifteenDigits) {
  for (const Quantile& known : kQuantiles) {
    CHECK_TRUE(RelativeError(NormalQuantile(known.p), known.value) < 1e-15);
  }
  CHECK_EQ(NormalQuantile(0.5), 0.0);
}

TEST(QuantilesInvertTheDistributionDownToItsTails) {
  for (double p = 0.5; p > 1e-290; p *= 0.83) {
    const double cdf = 0.5 * std::erfc(-NormalQuantile(p) / std::sqrt(2.0));
    // The density magnifies an error of the quantile x by about x^2 + 1.
    const double x = NormalQuantile(p);
    CHECK_TRUE(RelativeError(cdf, p) < 4e-15 * (1 + x * x));
  }
}

TEST(QuantilesAreSymmetricAndAscend) {
  double before = -INFINITY;
  for (int i = 1; i < 4096; ++i) {
    const double p = i / 4096.0;
    CHECK_EQ(NormalQuantile(p), -NormalQuantile(1 - p));
    CHECK_TRUE(NormalQuantile(p) > before);
    before = NormalQuantile(p);
  }
}

// ---- first values -------------------------------------------------------------------------------

struct Golden {
  InitializerSpec spec;
  uint64_t key;
  float values[4];
};

constexpr InitializerSpec kUniform{InitializerKind::kUniform, 0.01, 0, 7};
constexpr InitializerSpec kNormal{InitializerKind::kNormal, 0.5, 1.0, 7};
constexpr InitializerSpec kTruncated{InitializerKind::kTruncatedNormal, 0.5, 0, 7};

// Those of key 42 were also computed from the definition, in Python with SciPy's quantile.
constexpr Golden kGolden[] = {
    {kUniform, 0, {0x1.1ec56cp-9f, -0x1.0617a2p-7f, -0x1.0fc95ap-8f, -0x1.3cce3ep-8f}},
    {kUniform, 42, {-0x1.c85392p-8f, 0x1.148c7ep-7f, 0x1.ef7dc6p-8f, -0x1.02682ep-7f}},
    {kUniform, kLast, {-0x1.6092ecp-10f, 0x1.b63b86p-8f, -0x1.278368p-8f, 0x1.2f803p-8f}},
    {kNormal, 0, {0x1.238d06p+0f, 0x1.70136p-2f, 0x1.744e62p-1f, 0x1.59f4f2p-1f}},
    {kNormal, 42, {0x1.f164aap-2f, 0x1.b591f2p+0f, 0x1.952518p+0f, 0x1.8025aep-2f}},
    {kNormal, kLast, {0x1.d4a402p-1f, 0x1.7c5964p+0f, 0x1.669f0cp-1f, 0x1.4f0ac2p+0f}},
    {kTruncated, 0, {0x1.0f26ecp-3f, -0x1.2f03d4p-1f, -0x1.09700cp-2f, -0x1.3adaa6p-2f}},
    {kTruncated, 42, {-0x1.ed3956p-2f, 0x1.4c2c88p-1f, 0x1.158484p-1f, -0x1.282efcp-1f}},
    {kTruncated, kLast, {-0x1.4af34ap-4f, 0x1.d2f9dcp-2f, -0x1.2325p-2f, 0x1.2bf68ap-2f}},
};

TEST(FirstValuesAreTheGoldenOnes) {
  for (const Golden& golden : kGolden) {
    const std::vector<float> values = ValuesOf(golden.spec, golden.key, 4);
    for (size_t i = 0; i < 4; ++i) CHECK_EQ(values[i], golden.values[i]);
  }
  CHECK_TRUE(ValuesOf({InitializerKind::kZeros, 3, 4, 5}, 1, 3) == std::vector<float>(3, 0.0f));
  CHECK_TRUE(ValuesOf({InitializerKind::kConstant, 1.5, 0, 0}, 1, 3) ==
             std::vector<float>(3, 1.5f));
}

TEST(AColumnDoesNotDependOnTheNumberOfColumns) {
  for (const InitializerSpec& spec : {kUniform, kNormal, kTruncated}) {
    const std::vector<float> longest = ValuesOf(spec, 5, 4096);
    for (const uint32_t dim : {1u, 2u, 17u}) {
      const std::vector<float> values = ValuesOf(spec, 5, dim);
      CHECK_TRUE(std::equal(values.begin(), values.end(), longest.begin()));
    }
  }
}

struct Moments {
  double mean = 0;
  double variance = 0;
  double largest = 0;
};

constexpr uint32_t kSampleDim = 64;
constexpr uint64_t kSampleKeys = 4096;
constexpr double kSamples = kSampleDim * kSampleKeys;

Moments MomentsOf(const InitializerSpec& spec) {
  Moments moments;
  double squares = 0;
  for (uint64_t key = 0; key < kSampleKeys; ++key) {
    for (const float value : ValuesOf(spec, key, kSampleDim)) {
      moments.mean += value / kSamples;
      squares += double{value} * value / kSamples;
      moments.largest = std::max(moments.largest, std::abs(double{value} - spec.b));
    }
  }
  moments.variance = squares - moments.mean * moments.mean;
  return moments;
}

TEST(FirstValuesHaveTheMomentsOfTheirDistribution) {
  struct Case {
    InitializerSpec spec;
    double variance;
    double bound;
  };
  // Of the normal distribution cut at two standard deviations: 1 - 4 phi(2) / (2 Phi(2) - 1).
  constexpr double kCutVariance = 0.7737413;
  const Case cases[] = {
      {kUniform, 0.01 * 0.01 / 3, 0.01},
      {kNormal, 0.25, 4},
      {kTruncated, 0.25 * kCutVariance, 1 + 1e-7},
  };
  for (const Case& expected : cases) {
    const Moments moments = MomentsOf(expected.spec);
    const double deviation = std::sqrt(expected.variance);
    CHECK_TRUE(std::abs(moments.mean - expected.spec.b) < 6 * deviation / std::sqrt(kSamples));
    CHECK_TRUE(RelativeError(moments.variance, expected.variance) < 6 * std::sqrt(2 / kSamples));
    CHECK_TRUE(moments.largest <= expected.bound);
    CHECK_TRUE(moments.largest > 0.99 * std::min(expected.bound, 4 * deviation));
  }
}

// ---- first state --------------------------------------------------------------------------------

TEST(FirstStateIsTheInitialAccumulatorOrZero) {
  constexpr uint32_t kDim = 6;
  const std::vector<float> values(kDim, 1.0f);
  for (size_t i = 0; i < kOptimizerKinds; ++i) {
    const auto kind = static_cast<OptimizerKind>(i);
    if (kind == OptimizerKind::kFtrl) continue;
    const bool accumulates =
        kind == OptimizerKind::kAdagrad || kind == OptimizerKind::kRowwiseAdagrad;
    const OptimizerSpec spec{.kind = kind, .lr = 0.1f, .initial_accumulator = 0.25f};
    std::vector<float> state(StateFloats(kind, kDim), NAN);
    InitializeState(spec, kDim, values.data(), state.data());
    CHECK_TRUE(state == std::vector<float>(state.size(), accumulates ? 0.25f : 0.0f));
  }
}

TEST(FirstStateOfFtrlHoldsTheInitialValues) {
  const std::vector<float> values = {0.5f, -0.25f, 0.0f, 1e-4f, -3.0f};
  const auto dim = static_cast<uint32_t>(values.size());
  const OptimizerSpec spec{
      .kind = OptimizerKind::kFtrl, .lr = 0.05f, .beta = 1.0f, .l1 = 0.1f, .l2 = 0.3f};
  std::vector<float> state(StateFloats(spec.kind, dim), NAN);
  InitializeState(spec, dim, values.data(), state.data());
  // A step with gradient zero applies the closed form to the state.
  std::vector<float> moved = values;
  const std::vector<float> zeros(dim, 0.0f);
  FindKernels("baseline")
      .value()
      ->step[static_cast<size_t>(spec.kind)](spec, {1, 1}, dim, zeros.data(), moved.data(),
                                             state.data());
  for (uint32_t i = 0; i < dim; ++i) CHECK_TRUE(std::abs(moved[i] - values[i]) < 1e-6f);
}

}  // namespace
}  // namespace embery

EMBERY_TEST_MAIN()
