// Every SIMD target against the baseline, bit by bit; the baseline against formulas in double.
#include "optim/kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <numeric>
#include <random>

#include "base/testing.h"

namespace embery {
namespace {

const Kernels& Baseline() {
  static const Kernels& baseline = *FindKernels("baseline").value();
  return baseline;
}

void ForEachTarget(const std::function<void(const Kernels&)>& check) {
  for (const std::string& name : SimdTargets()) check(*FindKernels(name).value());
}

// 1 to 67 crosses every width of a register, with every remainder; then a long one and the longest.
std::vector<uint32_t> Dims() {
  std::vector<uint32_t> dims(67);
  std::iota(dims.begin(), dims.end(), 1u);
  dims.insert(dims.end(), {100, 4096});
  return dims;
}

// Of both signs and of sizes from 2^-20 to 2^4, with a zero here and there.
std::vector<float> RandomValues(std::mt19937& random, size_t count) {
  std::vector<float> values(count);
  for (float& value : values) {
    const float unit = static_cast<float>(static_cast<int32_t>(random())) * 0x1p-31f;
    value = random() % 16 == 0 ? 0.0f : std::ldexp(unit, static_cast<int>(random() % 25) - 20);
  }
  return values;
}

template <typename T>
bool SameBits(const std::vector<T>& a, const std::vector<T>& b) {
  // An empty vector may have a null pointer, which memcmp does not take.
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

OptimizerSpec SpecOf(size_t kind, float weight_decay) {
  return {.kind = static_cast<OptimizerKind>(kind),
          .lr = 0.05f,
          .weight_decay = weight_decay,
          .momentum = 0.9f,
          .eps = 1e-6f,
          .initial_accumulator = 0.1f,
          .beta1 = 0.9,
          .beta2 = 0.999,
          .beta = 1.0f,
          .l1 = 0.01f,
          .l2 = 0.02f};
}

// ---- targets ------------------------------------------------------------------------------------

TEST(TheBestTargetIsFoundAsAutoAndTheBaselineIsAlwaysThere) {
  const std::vector<std::string> names = SimdTargets();
  for (const std::string& name : names) {
    std::printf("     target %s\n", name.c_str());
    CHECK_EQ(std::string(FindKernels(name).value()->name), name);
  }
  CHECK_EQ(names.back(), "baseline");
  CHECK_EQ(std::string(FindKernels("auto").value()->name), names.front());
}

TEST(AnUnknownTargetIsAnErrorThatNamesTheKnownOnes) {
  const Status status = FindKernels("sse9").status();
  CHECK_TRUE(status.code() == StatusCode::kInvalidArgument);
  CHECK_TRUE(status.message().find("'sse9'") != std::string::npos);
  CHECK_TRUE(status.message().find("baseline") != std::string::npos);
}

TEST(EveryTargetTakesTheSameOptimizerSteps) {
  ForEachTarget([](const Kernels& kernels) {
    std::mt19937 random(3);
    for (const uint32_t dim : Dims()) {
      for (size_t kind = 0; kind < kOptimizerKinds; ++kind) {
        const OptimizerSpec spec = SpecOf(kind, dim % 2 == 0 ? 0.0f : 0.01f);
        std::vector<float> values = RandomValues(random, dim);
        std::vector<float> state(StateFloats(spec.kind, dim), spec.initial_accumulator);
        std::vector<float> expected_values = values;
        std::vector<float> expected_state = state;
        for (uint64_t t = 1; t <= 5; ++t) {
          const std::vector<float> grad = RandomValues(random, dim);
          const UpdateClock clock{t, 3 * t};
          kernels.step[kind](spec, clock, dim, grad.data(), values.data(), state.data());
          Baseline().step[kind](spec, clock, dim, grad.data(), expected_values.data(),
                                expected_state.data());
        }
        CHECK_TRUE(SameBits(values, expected_values));
        CHECK_TRUE(SameBits(state, expected_state));
      }
    }
  });
}

TEST(EveryTargetStoresAndReadsTheSameBytes) {
  ForEachTarget([](const Kernels& kernels) {
    std::mt19937 random(4);
    for (const uint32_t dim : Dims()) {
      for (size_t type = 0; type < kValueTypes; ++type) {
        for (const auto kind : {Rounding::Kind::kNearest, Rounding::Kind::kStochastic}) {
          const std::vector<float> values = RandomValues(random, dim);
          const Rounding rounding{kind, static_cast<uint32_t>(random())};
          const size_t bytes = ValueBytes(static_cast<ValueType>(type), dim);
          std::vector<std::byte> stored(bytes);
          std::vector<std::byte> expected(bytes);
          kernels.encode[type](values.data(), dim, rounding, stored.data());
          Baseline().encode[type](values.data(), dim, rounding, expected.data());
          CHECK_TRUE(SameBits(stored, expected));
          std::vector<float> read(dim);
          std::vector<float> expected_read(dim);
          kernels.decode[type](stored.data(), dim, read.data());
          Baseline().decode[type](stored.data(), dim, expected_read.data());
          CHECK_TRUE(SameBits(read, expected_read));
        }
      }
    }
  });
}

// ---- sums ---------------------------------------------------------------------------------------

TEST(RowsAreSummedInTheGivenOrder) {
  ForEachTarget([](const Kernels& kernels) {
    std::mt19937 random(5);
    for (const uint32_t dim : Dims()) {
      const std::vector<float> grads = RandomValues(random, size_t{9} * dim);
      const std::vector<uint32_t> positions = {4, 0, 8, 4, 2};
      for (size_t count = 1; count <= positions.size(); ++count) {
        std::vector<float> expected(grads.begin() + 4 * dim, grads.begin() + 5 * dim);
        for (size_t k = 1; k < count; ++k) {
          for (uint32_t i = 0; i < dim; ++i) expected[i] += grads[positions[k] * dim + i];
        }
        std::vector<float> sum(dim, NAN);
        kernels.sum_rows(grads.data(), positions.data(), count, dim, sum.data());
        CHECK_TRUE(SameBits(sum, expected));
      }
    }
  });
}

TEST(OneNonFiniteValueAnywhereIsFound) {
  ForEachTarget([](const Kernels& kernels) {
    std::vector<float> values(67, 3.0e38f);
    CHECK_TRUE(kernels.all_finite(values.data(), 0));
    for (size_t at = 0; at < values.size(); ++at) {
      CHECK_TRUE(kernels.all_finite(values.data(), values.size()));
      for (const float bad : {NAN, -NAN, INFINITY, -INFINITY}) {
        values[at] = bad;
        CHECK_TRUE(!kernels.all_finite(values.data(), values.size()));
        CHECK_TRUE(kernels.all_finite(values.data(), at));
      }
      values[at] = -0x1p-149f;
    }
  });
}

// ---- optimizers against their formulas ----------------------------------------------------------

// A row of one value, in double, by the formulas of embery/optim.py.
struct ScalarRow {
  double w = 0;
  double first = 0;   // m, s or z.
  double second = 0;  // v or n.

  void Adam(const OptimizerSpec& spec, double g, uint64_t t) {
    first = spec.beta1 * first + (1 - spec.beta1) * g;
    second = spec.beta2 * second + (1 - spec.beta2) * g * g;
    const auto steps = static_cast<double>(t);
    w -= spec.lr / (1 - std::pow(spec.beta1, steps)) * first /
         (std::sqrt(second) / std::sqrt(1 - std::pow(spec.beta2, steps)) + spec.eps);
  }

  void Ftrl(const OptimizerSpec& spec, double g) {
    const double next = second + g * g;
    first += g - (std::sqrt(next) - std::sqrt(second)) / spec.lr * w;
    second = next;
    const double shrunk = first - std::copysign(double{spec.l1}, first);
    w = std::abs(first) <= spec.l1
            ? 0
            : -shrunk / ((spec.beta + std::sqrt(second)) / spec.lr + spec.l2);
  }

  void Step(const OptimizerSpec& spec, UpdateClock clock, double g) {
    const double decayed = g + spec.weight_decay * w;
    switch (spec.kind) {
      case OptimizerKind::kSgd:
        w -= spec.lr * decayed;
        break;
      case OptimizerKind::kMomentum:
        first = spec.momentum * first + decayed;
        w -= spec.lr * first;
        break;
      case OptimizerKind::kAdagrad:
      case OptimizerKind::kRowwiseAdagrad:
        first += decayed * decayed;
        w -= spec.lr * decayed / (std::sqrt(first) + spec.eps);
        break;
      case OptimizerKind::kAdam:
        Adam(spec, decayed, clock.row_updates);
        break;
      case OptimizerKind::kLazyAdam:
        Adam(spec, decayed, clock.table_step);
        break;
      case OptimizerKind::kAdamW:
        w -= double{spec.lr} * spec.weight_decay * w;
        Adam(spec, g, clock.row_updates);
        break;
      case OptimizerKind::kFtrl:
        Ftrl(spec, g);
        break;
    }
  }
};

TEST(StepsFollowTheFormulas) {
  constexpr uint32_t kDim = 5;
  std::mt19937 random(7);
  for (size_t kind = 0; kind < kOptimizerKinds; ++kind) {
    for (const float weight_decay : {0.0f, 0.02f}) {
      const OptimizerSpec spec = SpecOf(kind, weight_decay);
      std::vector<float> values(kDim, 0.0f);
      std::vector<float> state(StateFloats(spec.kind, kDim), 0.0f);
      ScalarRow expected[kDim];
      for (uint64_t t = 1; t <= 200; ++t) {
        // One value for all columns makes the mean of squares of the row-wise form the square.
        const auto grad = static_cast<float>(static_cast<int>(random() % 2001) - 1000) / 700.0f;
        const std::vector<float> grads(kDim, grad);
        const UpdateClock clock{t, 2 * t + 5};
        Baseline().step[kind](spec, clock, kDim, grads.data(), values.data(), state.data());
        for (uint32_t i = 0; i < kDim; ++i) {
          expected[i].Step(spec, clock, double{grad});
          CHECK_TRUE(std::abs(values[i] - expected[i].w) < 2e-5 * (1 + std::abs(expected[i].w)));
        }
      }
    }
  }
}

TEST(RowwiseAdagradAccumulatesTheMeanSquareOfTheRow) {
  const OptimizerSpec spec = SpecOf(static_cast<size_t>(OptimizerKind::kRowwiseAdagrad), 0.0f);
  for (const uint32_t dim : {1u, 16u, 17u, 4096u}) {
    std::vector<float> grads(dim);
    for (uint32_t i = 0; i < dim; ++i) grads[i] = static_cast<float>(i % 5) - 2.0f;
    double squares = 0;
    for (const float grad : grads) squares += double{grad} * grad;
    std::vector<float> values(dim, 1.0f);
    float state = 0;
    Baseline().step[static_cast<size_t>(spec.kind)](spec, {1, 1}, dim, grads.data(), values.data(),
                                                    &state);
    CHECK_EQ(state, static_cast<float>(squares) / static_cast<float>(dim));
  }
}

}  // namespace
}  // namespace embery

EMBERY_TEST_MAIN()
