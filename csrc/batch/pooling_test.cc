#include "batch/pooling.h"

#include <cmath>
#include <cstring>
#include <random>

#include "base/testing.h"

namespace embery {
namespace {

// A random batch over three tables, one of them read by two features, and its plan.
class Batch {
 public:
  Batch(uint64_t seed, size_t samples, bool weighted, ThreadPool* pool) : random_(seed) {
    layout_ = std::make_shared<BatchLayout>();
    layout_->table_dims = {16, 5, 64};
    layout_->features = {{"a", 0, Pooling::kSum},
                         {"b", 1, Pooling::kMean},
                         {"c", 0, Pooling::kSqrtN},
                         {"d", 2, Pooling::kMean}};
    CHECK_TRUE(layout_->Finish().ok());
    for (size_t bag = 0; bag < layout_->features.size() * samples; ++bag) {
      lengths_.push_back(static_cast<int64_t>(random_() % 4));
      for (int64_t i = 0; i < lengths_.back(); ++i) values_.push_back(random_() % 50);
    }
    if (weighted) weights_ = Floats(values_.size());
    const std::vector<uint32_t> positions = {0, 1, 2, 3};
    Planner planner(layout_, pool);
    auto result = planner.Plan({values_, lengths_, weights_, positions, samples});
    CHECK_TRUE(result.ok());
    plan_ = result.value();
  }

  const BatchPlan& plan() const { return *plan_; }
  size_t out_floats() const { return plan_->samples * layout_->columns; }
  PooledGradient Dense(const std::vector<float>& grad) const {
    return {grad.data(), layout_->columns};
  }

  std::vector<float> Floats(size_t count) {
    std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
    std::vector<float> floats(count);
    for (float& x : floats) x = uniform(random_);
    return floats;
  }

  // Calls visit(row's first float, output's first float, coefficient, dim, value) for every value.
  template <typename Visit>
  void ForEachValue(const Visit& visit) const {
    for (size_t f = 0; f < layout_->features.size(); ++f) {
      for (size_t b = 0; b < plan_->samples; ++b) {
        const uint32_t begin = plan_->bag_begin[f * plan_->samples + b];
        const uint32_t end = plan_->bag_begin[f * plan_->samples + b + 1];
        for (uint32_t v = begin; v < end; ++v) {
          const double n = end - begin;
          double factor = 1.0;
          if (layout_->features[f].pooling == Pooling::kMean) factor = 1.0 / n;
          if (layout_->features[f].pooling == Pooling::kSqrtN) factor = 1.0 / std::sqrt(n);
          const size_t row = plan_->row_begin[layout_->features[f].table] +
                             plan_->rows[v] * size_t{layout_->DimOf(f)};
          visit(row, b * layout_->columns + layout_->column_begin[f], factor, layout_->DimOf(f), v);
        }
      }
    }
  }

  double Weight(uint32_t v) const { return plan_->weights.empty() ? 1.0 : plan_->weights[v]; }

 private:
  std::mt19937_64 random_;
  std::shared_ptr<BatchLayout> layout_;
  std::vector<uint64_t> values_;
  std::vector<int64_t> lengths_;
  std::vector<float> weights_;
  std::shared_ptr<const BatchPlan> plan_;
};

void CheckNear(const std::vector<float>& got, const std::vector<double>& expected) {
  REQUIRE_TRUE(got.size() == expected.size());
  for (size_t i = 0; i < got.size(); ++i) {
    if (std::abs(got[i] - expected[i]) > 1e-5 * (1.0 + std::abs(expected[i]))) {
      CHECK_EQ(static_cast<double>(got[i]), expected[i]);
      return;
    }
  }
}

TEST(PooledVectorsAreTheDefinition) {
  ThreadPool pool(1);
  for (bool weighted : {false, true}) {
    Batch batch(3, 700, weighted, &pool);
    const std::vector<float> rows = batch.Floats(batch.plan().FloatCount());
    std::vector<float> out(batch.out_floats(), 99.0f);
    PoolForward(batch.plan(), rows.data(), out.data(), pool);
    std::vector<double> expected(out.size(), 0.0);
    batch.ForEachValue([&](size_t row, size_t to, double factor, size_t dim, uint32_t v) {
      for (size_t d = 0; d < dim; ++d) expected[to + d] += batch.Weight(v) * factor * rows[row + d];
    });
    CheckNear(out, expected);
  }
}

TEST(GradientOfRowsAndWeightsIsThatOfTheDefinition) {
  ThreadPool pool(1);
  for (bool weighted : {false, true}) {
    Batch batch(4, 700, weighted, &pool);
    const std::vector<float> rows = batch.Floats(batch.plan().FloatCount());
    const std::vector<float> grad = batch.Floats(batch.out_floats());
    std::vector<float> grad_rows(rows.size(), 99.0f);
    std::vector<float> grad_weights(batch.plan().batch_values, 99.0f);
    PoolBackward(batch.plan(), batch.Dense(grad), grad_rows.data(), pool);
    WeightsBackward(batch.plan(), rows.data(), batch.Dense(grad), grad_weights.data(), pool);
    std::vector<double> expected_rows(rows.size(), 0.0);
    std::vector<double> expected_weights(grad_weights.size(), 0.0);
    batch.ForEachValue([&](size_t row, size_t from, double factor, size_t dim, uint32_t v) {
      for (size_t d = 0; d < dim; ++d) {
        expected_rows[row + d] += batch.Weight(v) * factor * grad[from + d];
        expected_weights[v] += factor * double{rows[row + d]} * grad[from + d];
      }
    });
    CheckNear(grad_rows, expected_rows);
    CheckNear(grad_weights, expected_weights);
  }
}

TEST(AGradientIsReadWhereItLiesInAWiderMatrix) {
  ThreadPool pool(2);
  Batch batch(8, 300, /*weighted=*/true, &pool);
  const BatchPlan& plan = batch.plan();
  const size_t columns = plan.layout->columns;
  const size_t stride = columns + 7;
  const std::vector<float> wide = batch.Floats(plan.samples * stride);
  std::vector<float> dense;
  for (size_t b = 0; b < plan.samples; ++b) {
    const float* row = wide.data() + b * stride + 5;
    dense.insert(dense.end(), row, row + columns);
  }
  const PooledGradient slice{wide.data() + 5, stride};
  const std::vector<float> rows = batch.Floats(plan.FloatCount());
  std::vector<float> from_slice(rows.size() + plan.batch_values);
  std::vector<float> from_dense(from_slice.size());
  for (auto [grad, out] : {std::pair{slice, &from_slice}, {batch.Dense(dense), &from_dense}}) {
    PoolBackward(plan, grad, out->data(), pool);
    WeightsBackward(plan, rows.data(), grad, out->data() + rows.size(), pool);
  }
  CHECK_EQ(std::memcmp(from_slice.data(), from_dense.data(), from_dense.size() * sizeof(float)), 0);
}

TEST(SequencesGatherRowsAndScatterTheirGradients) {
  ThreadPool pool(1);
  Batch batch(5, 300, /*weighted=*/false, &pool);
  const BatchPlan& plan = batch.plan();
  const std::vector<float> rows = batch.Floats(plan.FloatCount());
  std::vector<std::vector<float>> out;
  std::vector<float*> pointers;
  for (size_t f = 0; f < plan.layout->features.size(); ++f) {
    const size_t count = plan.ValueEnd(f) - plan.ValueBegin(f);
    out.emplace_back(count * plan.layout->DimOf(f));
    pointers.push_back(out.back().data());
  }
  GatherForward(plan, rows.data(), pointers, pool);
  for (size_t f = 0; f < out.size(); ++f) {
    const size_t dim = plan.layout->DimOf(f);
    const size_t table_begin = plan.row_begin[plan.layout->features[f].table];
    for (uint32_t v = plan.ValueBegin(f); v < plan.ValueEnd(f); ++v) {
      const float* expected = rows.data() + table_begin + plan.rows[v] * dim;
      const float* got = out[f].data() + (v - plan.ValueBegin(f)) * dim;
      CHECK_EQ(std::memcmp(got, expected, dim * sizeof(float)), 0);
    }
  }
  // The gradient of half the squared norm is the rows themselves, once a value.
  std::vector<float> grad_rows(rows.size());
  GatherBackward(plan, std::vector<const float*>(pointers.begin(), pointers.end()),
                 grad_rows.data(), pool);
  std::vector<double> expected(rows.size(), 0.0);
  batch.ForEachValue([&](size_t row, size_t, double, size_t dim, uint32_t) {
    for (size_t d = 0; d < dim; ++d) expected[row + d] += rows[row + d];
  });
  CheckNear(grad_rows, expected);
}

TEST(BitsDoNotDependOnTheNumberOfThreads) {
  std::vector<float> first;
  for (int threads : {1, 2, 4}) {
    ThreadPool pool(threads);
    Batch batch(6, 2000, /*weighted=*/true, &pool);
    const std::vector<float> rows = batch.Floats(batch.plan().FloatCount());
    const std::vector<float> grad = batch.Floats(batch.out_floats());
    const size_t row_floats = rows.size();
    std::vector<float> all(batch.out_floats() + row_floats + batch.plan().batch_values);
    PoolForward(batch.plan(), rows.data(), all.data(), pool);
    float* grads = all.data() + batch.out_floats();
    PoolBackward(batch.plan(), batch.Dense(grad), grads, pool);
    WeightsBackward(batch.plan(), rows.data(), batch.Dense(grad), grads + row_floats, pool);
    if (first.empty()) first = all;
    REQUIRE_TRUE(all.size() == first.size());
    CHECK_EQ(std::memcmp(all.data(), first.data(), all.size() * sizeof(float)), 0);
  }
}

TEST(DuplicatesAreSummedInOrderOfAppearance) {
  // 1 + 2^-24 rounds to 1; the other order keeps the small terms. Only the stated order gives 1.
  ThreadPool pool(2);
  auto layout = std::make_shared<BatchLayout>();
  layout->table_dims = {1};
  layout->features = {{"a", 0, Pooling::kSum}, {"b", 0, Pooling::kSum}};
  REQUIRE_TRUE(layout->Finish().ok());
  Planner planner(layout, &pool);
  const auto plan = planner.Plan({std::vector<uint64_t>{7, 7, 7, 7},
                                  std::vector<int64_t>{1, 1, 1, 1},
                                  {},
                                  std::vector<uint32_t>{0, 1},
                                  2});
  REQUIRE_TRUE(plan.ok());
  const float tiny = std::ldexp(1.0f, -24);
  const std::vector<float> grad = {1.0f, tiny, tiny, tiny};  // (sample, feature)
  float grad_row = 0.0f;
  PoolBackward(*plan.value(), {grad.data(), 2}, &grad_row, pool);
  CHECK_EQ(grad_row, 1.0f);
  const std::vector<float> reversed = {tiny, tiny, tiny, 1.0f};
  PoolBackward(*plan.value(), {reversed.data(), 2}, &grad_row, pool);
  CHECK_TRUE(grad_row > 1.0f);
}

}  // namespace
}  // namespace embery

EMBERY_TEST_MAIN()
