// The inner loops, compiled once for each SIMD target and picked at run time.
//
// Thread-safety: pure functions on the caller's memory. Invariant: every target gives the same
// bits. Element-wise loops do so by themselves (IEEE arithmetic, no fused multiply-add); sums run
// in 16 fixed lanes that are added in a fixed order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "optim/spec.h"

namespace embery {

// How values are rounded to a narrower storage type.
struct Rounding {
  enum class Kind : uint8_t { kNearest, kStochastic };
  Kind kind = Kind::kNearest;
  uint32_t noise = 0;  // Seeds the stochastic rounding of this row's columns.
};

struct Kernels {
  const char* name;

  // One optimizer step on a row of float32 values and its state.
  using StepFn = void (*)(const OptimizerSpec& spec, UpdateClock clock, uint32_t dim,
                          const float* grad, float* values, float* state);
  StepFn step[kOptimizerKinds];

  // out = sum of the gradient rows at `positions`, in that order.
  void (*sum_rows)(const float* grads, const uint32_t* positions, size_t count, uint32_t dim,
                   float* out);
  bool (*all_finite)(const float* values, size_t count);

  using DecodeFn = void (*)(const std::byte* stored, uint32_t dim, float* values);
  using EncodeFn = void (*)(const float* values, uint32_t dim, Rounding rounding,
                            std::byte* stored);
  DecodeFn decode[kValueTypes];
  EncodeFn encode[kValueTypes];
};

// Names of the targets that this processor runs, best first.
std::vector<std::string> SimdTargets();

// "auto" is the best of SimdTargets().
Result<const Kernels*> FindKernels(const std::string& name);

}  // namespace embery
