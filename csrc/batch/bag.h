// The arithmetic of a bag: how a sample's rows become one vector, wherever it happens.
//
// Thread-safety: pure functions. Invariant: training and serving pool with these same steps in the
// same order, so that equal rows give equal bits.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "batch/plan.h"

namespace embery {

// What the sum of `count` rows is multiplied by; requires count > 0.
inline float ScaleOf(Pooling pooling, uint32_t count) {
  switch (pooling) {
    case Pooling::kSum:
      return 1.0f;
    case Pooling::kMean:
      return 1.0f / static_cast<float>(count);
    case Pooling::kSqrtN:
      return 1.0f / std::sqrt(static_cast<float>(count));
  }
  return 1.0f;
}

// Calls body.template operator()<dim>() with the dim as a constant where it is a usual one, so that
// its loops unroll, and with 0 for "read it at run time" otherwise.
template <typename Body>
auto WithDim(uint32_t dim, Body&& body) {
  switch (dim) {
    case 8:
      return body.template operator()<8>();
    case 16:
      return body.template operator()<16>();
    case 32:
      return body.template operator()<32>();
    case 64:
      return body.template operator()<64>();
    default:
      return body.template operator()<0>();
  }
}

// Puts weight * row into `to`, for the first row of a bag, and adds it for the others.
template <size_t kDim>
void SetWeighted(const float* __restrict row, float weight, size_t dim, float* __restrict to) {
  const size_t count = kDim != 0 ? kDim : dim;
  for (size_t d = 0; d < count; ++d) to[d] = weight * row[d];
}
template <size_t kDim>
void AddWeighted(const float* __restrict row, float weight, size_t dim, float* __restrict to) {
  const size_t count = kDim != 0 ? kDim : dim;
  for (size_t d = 0; d < count; ++d) to[d] += weight * row[d];
}

}  // namespace embery
