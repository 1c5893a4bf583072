#include "batch/pooling.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "batch/bag.h"

namespace embery {
namespace {

// Samples a task of the forward pass handles: enough work to be worth handing out.
constexpr size_t kSamplesPerTask = 512;

// One feature's values, and where its rows lie.
struct FeatureView {
  const BatchPlan& plan;
  size_t feature;

  uint32_t dim() const { return plan.layout->DimOf(feature); }
  Pooling pooling() const { return plan.layout->features[feature].pooling; }
  size_t rows_begin() const { return plan.row_begin[plan.layout->features[feature].table]; }
  const uint32_t* bags() const { return plan.bag_begin.data() + feature * plan.samples; }
  const float* weights() const { return plan.weights.empty() ? nullptr : plan.weights.data(); }
  size_t column() const { return plan.layout->column_begin[feature]; }
};

template <size_t kDim>
void PoolSamples(const FeatureView& view, size_t begin, size_t end, const float* rows, float* out) {
  const size_t dim = kDim != 0 ? kDim : view.dim();
  const size_t columns = view.plan.layout->columns;
  const RowIndex* index = view.plan.rows.data();
  const float* weights = view.weights();
  const Pooling pooling = view.pooling();
  const uint32_t* bags = view.bags();
  for (size_t b = begin; b < end; ++b) {
    float* __restrict to = out + b * columns;
    if (bags[b] == bags[b + 1]) {
      std::fill_n(to, dim, 0.0f);
      continue;
    }
    for (uint32_t v = bags[b]; v < bags[b + 1]; ++v) {
      const float* __restrict row = rows + index[v] * dim;
      const float weight = weights != nullptr ? weights[v] : 1.0f;
      if (v == bags[b]) {
        SetWeighted<kDim>(row, weight, dim, to);
      } else {
        AddWeighted<kDim>(row, weight, dim, to);
      }
    }
    const float scale = ScaleOf(pooling, bags[b + 1] - bags[b]);
    if (scale != 1.0f) {
      for (size_t d = 0; d < dim; ++d) to[d] *= scale;
    }
  }
}

// Adds factor * grad to a row's gradient. Rows are numbered by first appearance, so row `*fresh`
// has none yet and gets its first value stored: no buffer of zeros is needed.
template <size_t kDim>
inline void AddToRow(float* grad_rows, RowIndex row, RowIndex* fresh, const float* __restrict grad,
                     float factor, size_t dim) {
  float* __restrict to = grad_rows + row * dim;
  if (row == *fresh) {
    ++*fresh;
    for (size_t d = 0; d < dim; ++d) to[d] = factor * grad[d];
  } else {
    for (size_t d = 0; d < dim; ++d) to[d] += factor * grad[d];
  }
}

template <size_t kDim>
void PoolFeatureBackward(const FeatureView& view, PooledGradient grad_out, float* grad_rows,
                         RowIndex* fresh) {
  const size_t dim = kDim != 0 ? kDim : view.dim();
  const RowIndex* index = view.plan.rows.data();
  const float* weights = view.weights();
  const Pooling pooling = view.pooling();
  const uint32_t* bags = view.bags();
  for (size_t b = 0; b < view.plan.samples; ++b) {
    const float* grad = grad_out.data + b * grad_out.stride + view.column();
    const float scale = ScaleOf(pooling, bags[b + 1] - bags[b]);
    for (uint32_t v = bags[b]; v < bags[b + 1]; ++v) {
      const float factor = weights != nullptr ? scale * weights[v] : scale;
      AddToRow<kDim>(grad_rows, index[v], fresh, grad, factor, dim);
    }
  }
}

template <size_t kDim>
void GatherFeatureBackward(const FeatureView& view, const float* grad_out, float* grad_rows,
                           RowIndex* fresh) {
  const size_t dim = kDim != 0 ? kDim : view.dim();
  const uint32_t begin = view.plan.ValueBegin(view.feature);
  const uint32_t end = view.plan.ValueEnd(view.feature);
  for (uint32_t v = begin; v < end; ++v) {
    AddToRow<kDim>(grad_rows, view.plan.rows[v], fresh, grad_out + (v - begin) * dim, 1.0f, dim);
  }
}

// A dot product whose order of addition is fixed and still fits vector registers.
float Dot(const float* a, const float* b, size_t dim) {
  constexpr size_t kLanes = 8;
  std::array<float, kLanes> sums{};
  size_t d = 0;
  for (; d + kLanes <= dim; d += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) sums[lane] += a[d + lane] * b[d + lane];
  }
  for (size_t lane = 0; d < dim; ++d, ++lane) sums[lane] += a[d] * b[d];
  return ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
}

// Runs work(table, features) for each table, where the features are those that read it, in order.
template <typename Work>
void ForEachTable(const BatchPlan& plan, ThreadPool& pool, const Work& work) {
  pool.Run(plan.layout->table_dims.size(), [&](size_t table) {
    RowIndex fresh = 0;
    for (size_t f = 0; f < plan.layout->features.size(); ++f) {
      if (plan.layout->features[f].table == table) work(FeatureView{plan, f}, &fresh);
    }
  });
}

}  // namespace

void PoolForward(const BatchPlan& plan, const float* rows, float* out, ThreadPool& pool) {
  const size_t blocks = (plan.samples + kSamplesPerTask - 1) / kSamplesPerTask;
  pool.Run(plan.layout->features.size() * blocks, [&](size_t task) {
    const FeatureView view{plan, task / blocks};
    const size_t begin = task % blocks * kSamplesPerTask;
    const size_t end = std::min(begin + kSamplesPerTask, plan.samples);
    WithDim(view.dim(), [&]<size_t kDim>() {
      PoolSamples<kDim>(view, begin, end, rows + view.rows_begin(), out + view.column());
    });
  });
}

void PoolBackward(const BatchPlan& plan, PooledGradient grad, float* grad_rows, ThreadPool& pool) {
  ForEachTable(plan, pool, [&](const FeatureView& view, RowIndex* fresh) {
    WithDim(view.dim(), [&]<size_t kDim>() {
      PoolFeatureBackward<kDim>(view, grad, grad_rows + view.rows_begin(), fresh);
    });
  });
}

void WeightsBackward(const BatchPlan& plan, const float* rows, PooledGradient grad_out,
                     float* grad_weights, ThreadPool& pool) {
  std::fill_n(grad_weights, plan.batch_values, 0.0f);
  pool.Run(plan.layout->features.size(), [&](size_t feature) {
    const FeatureView view{plan, feature};
    const uint32_t* bags = view.bags();
    const size_t dim = view.dim();
    float* to = grad_weights + plan.batch_begin[feature];
    for (size_t b = 0; b < plan.samples; ++b) {
      const float* grad = grad_out.data + b * grad_out.stride + view.column();
      const float scale = ScaleOf(view.pooling(), bags[b + 1] - bags[b]);
      for (uint32_t v = bags[b]; v < bags[b + 1]; ++v) {
        to[v - bags[0]] = scale * Dot(grad, rows + view.rows_begin() + plan.rows[v] * dim, dim);
      }
    }
  });
}

void GatherForward(const BatchPlan& plan, const float* rows, std::span<float* const> out,
                   ThreadPool& pool) {
  pool.Run(plan.layout->features.size(), [&](size_t feature) {
    const FeatureView view{plan, feature};
    const size_t dim = view.dim();
    const float* from = rows + view.rows_begin();
    float* to = out[feature];
    for (uint32_t v = plan.ValueBegin(feature); v < plan.ValueEnd(feature); ++v, to += dim) {
      std::memcpy(to, from + plan.rows[v] * dim, dim * sizeof(float));
    }
  });
}

void GatherBackward(const BatchPlan& plan, std::span<const float* const> grad_out, float* grad_rows,
                    ThreadPool& pool) {
  ForEachTable(plan, pool, [&](const FeatureView& view, RowIndex* fresh) {
    WithDim(view.dim(), [&]<size_t kDim>() {
      GatherFeatureBackward<kDim>(view, grad_out[view.feature], grad_rows + view.rows_begin(),
                                  fresh);
    });
  });
}

}  // namespace embery
