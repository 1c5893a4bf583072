// From the distinct rows of a batch to the vectors a model reads, and back with the gradient.
//
// Thread-safety: pure functions of their arguments; `pool` lends threads. Ownership: every buffer
// is the caller's, float32. Invariants: no result depends on the number of threads, bit for bit;
// the gradient of a row is the sum over its values in the plan's order, which is fixed by the
// batch. Requires, everywhere: `rows` and row gradients are flat buffers of plan.FloatCount()
// floats; pooled vectors are (samples, columns); vectors of a sequence are (values of the feature,
// dim).
#pragma once

#include <span>

#include "batch/plan.h"

namespace embery {

// The gradient of the pooled vectors: (samples, columns), its rows `stride` floats apart. Autograd
// often hands out a slice of a wider matrix, which is read where it lies.
struct PooledGradient {
  const float* data;
  size_t stride;
};

// Fills `out` with the pooled vectors; a sample without values gets zeros.
void PoolForward(const BatchPlan& plan, const float* rows, float* out, ThreadPool& pool);

// Fills `grad_rows` with the gradient of each distinct row.
void PoolBackward(const BatchPlan& plan, PooledGradient grad, float* grad_rows, ThreadPool& pool);

// Fills `grad_weights`, one a value of the whole batch, with the gradient of the weights; 0 for
// values of features that the plan does not use.
void WeightsBackward(const BatchPlan& plan, const float* rows, PooledGradient grad,
                     float* grad_weights, ThreadPool& pool);

// Fills out[f] with the row of each value of feature f.
void GatherForward(const BatchPlan& plan, const float* rows, std::span<float* const> out,
                   ThreadPool& pool);

// Fills `grad_rows` with the gradient of each distinct row, given that of each value.
void GatherBackward(const BatchPlan& plan, std::span<const float* const> grad_out, float* grad_rows,
                    ThreadPool& pool);

}  // namespace embery
