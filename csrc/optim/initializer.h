// First values of a row, and the first state of its optimizer.
//
// Thread-safety: pure functions. Invariant: values depend on nothing but the spec, the key and the
// column; the same bits on every platform with IEEE arithmetic (no libm call is involved).
#pragma once

#include <cstdint>

#include "optim/spec.h"

namespace embery {

// Fills `values` (dim floats).
void InitializeValues(const InitializerSpec& spec, uint64_t key, uint32_t dim, float* values);

// Fills `state` (StateFloats(spec.kind, dim) floats) for a row whose first values are `values`.
void InitializeState(const OptimizerSpec& spec, uint32_t dim, const float* values, float* state);

// Quantile of the standard normal distribution at p in (0, 1); relative error below 1e-15.
// Algorithm AS 241, PPND16 (Wichura, Applied Statistics 37, 1988).
double NormalQuantile(double p);

}  // namespace embery
