// Compiled once for each SIMD target, with EMBERY_SIMD_TARGET naming it and the compiler's flags
// allowing its instructions; the loops are plain C++ that the compiler vectorises.
//
// Everything but Get() is in an unnamed namespace, and no inline function of another header is
// called: the linker keeps one copy of those, and it must not be one that needs AVX-512.
#include <cstring>

#include "optim/kernels.h"

#define EMBERY_JOIN(a, b) a##b
#define EMBERY_NAMESPACE(target) EMBERY_JOIN(simd_, target)
#define EMBERY_SIMD_NAMESPACE EMBERY_NAMESPACE(EMBERY_SIMD_TARGET)
#define EMBERY_TEXT(x) #x
#define EMBERY_QUOTE(x) EMBERY_TEXT(x)

namespace embery::EMBERY_SIMD_NAMESPACE {

const Kernels& Get();

namespace {

constexpr uint32_t kLanes = 16;
using Lanes = float __attribute__((vector_size(kLanes * sizeof(float))));

uint32_t BitsOf(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

float FloatOf(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// ---- sums -------------------------------------------------------------------------------------

// The 16 lanes are added pairwise, 8 apart, then 4, 2, 1.
float AddLanes(const Lanes& sums) {
  float lane[kLanes];
  std::memcpy(lane, &sums, sizeof(lane));
  for (uint32_t width = kLanes / 2; width > 0; width /= 2) {
    for (uint32_t i = 0; i < width; ++i) lane[i] += lane[i + width];
  }
  return lane[0];
}

float SumOfSquares(const float* values, uint32_t dim) {
  Lanes sums = {};
  Lanes part;
  uint32_t i = 0;
  for (; i + kLanes <= dim; i += kLanes) {
    std::memcpy(&part, values + i, sizeof(part));
    sums += part * part;
  }
  if (i < dim) {
    part = Lanes{};
    std::memcpy(&part, values + i, (dim - i) * sizeof(float));
    sums += part * part;
  }
  return AddLanes(sums);
}

void SumRows(const float* grads, const uint32_t* positions, size_t count, uint32_t dim,
             float* __restrict out) {
  std::memcpy(out, grads + size_t{positions[0]} * dim, dim * sizeof(float));
  for (size_t k = 1; k < count; ++k) {
    const float* row = grads + size_t{positions[k]} * dim;
    for (uint32_t i = 0; i < dim; ++i) out[i] += row[i];
  }
}

bool AllFinite(const float* values, size_t count) {
  // All ones in the exponent: an infinity or a NaN.
  uint32_t bad = 0;
  for (size_t i = 0; i < count; ++i) {
    bad |= (BitsOf(values[i]) & 0x7f800000u) == 0x7f800000u ? 1u : 0u;
  }
  return bad == 0;
}

// ---- optimizers -------------------------------------------------------------------------------

// x^n in double by repeated squaring: the same bits everywhere, which std::pow does not promise.
double Power(double x, uint64_t n) {
  double result = 1.0;
  for (; n > 0; n >>= 1) {
    if (n & 1) result *= x;
    x *= x;
  }
  return result;
}

void StepSgd(const OptimizerSpec& spec, UpdateClock, uint32_t dim, const float* __restrict grad,
             float* __restrict w, float*) {
  const float lr = spec.lr;
  const float decay = spec.weight_decay;
  if (decay == 0) {
    for (uint32_t i = 0; i < dim; ++i) w[i] -= lr * grad[i];
  } else {
    for (uint32_t i = 0; i < dim; ++i) w[i] -= lr * (grad[i] + decay * w[i]);
  }
}

void StepMomentum(const OptimizerSpec& spec, UpdateClock, uint32_t dim,
                  const float* __restrict grad, float* __restrict w, float* __restrict m) {
  const float lr = spec.lr;
  const float decay = spec.weight_decay;
  const float momentum = spec.momentum;
  for (uint32_t i = 0; i < dim; ++i) {
    m[i] = momentum * m[i] + (grad[i] + decay * w[i]);
    w[i] -= lr * m[i];
  }
}

void StepAdagrad(const OptimizerSpec& spec, UpdateClock, uint32_t dim, const float* __restrict grad,
                 float* __restrict w, float* __restrict s) {
  const float lr = spec.lr;
  const float decay = spec.weight_decay;
  const float eps = spec.eps;
  for (uint32_t i = 0; i < dim; ++i) {
    const float g = grad[i] + decay * w[i];
    s[i] += g * g;
    w[i] -= lr * g / (__builtin_sqrtf(s[i]) + eps);
  }
}

void StepRowwiseAdagrad(const OptimizerSpec& spec, UpdateClock, uint32_t dim,
                        const float* __restrict grad, float* __restrict w, float* __restrict s) {
  const float decay = spec.weight_decay;
  float decayed[kLanes * 256];  // DIM_MAX floats.
  if (decay != 0) {
    for (uint32_t i = 0; i < dim; ++i) decayed[i] = grad[i] + decay * w[i];
    grad = decayed;
  }
  s[0] += SumOfSquares(grad, dim) / static_cast<float>(dim);
  const float rate = spec.lr / (__builtin_sqrtf(s[0]) + spec.eps);
  for (uint32_t i = 0; i < dim; ++i) w[i] -= rate * grad[i];
}

struct AdamRates {
  float step;  // lr / (1 - b1^t)
  float root;  // sqrt(1 - b2^t)
};

AdamRates RatesAt(const OptimizerSpec& spec, uint64_t t) {
  return {static_cast<float>(double{spec.lr} / (1.0 - Power(spec.beta1, t))),
          static_cast<float>(__builtin_sqrt(1.0 - Power(spec.beta2, t)))};
}

// `decay` is added to the gradient, `shrink` multiplies the row first; one of them is idle.
void AdamStep(const OptimizerSpec& spec, AdamRates rates, float decay, float shrink, uint32_t dim,
              const float* __restrict grad, float* __restrict w, float* __restrict state) {
  float* __restrict m = state;
  float* __restrict v = state + dim;
  const auto b1 = static_cast<float>(spec.beta1);
  const auto b2 = static_cast<float>(spec.beta2);
  const auto c1 = static_cast<float>(1.0 - spec.beta1);
  const auto c2 = static_cast<float>(1.0 - spec.beta2);
  const float eps = spec.eps;
  for (uint32_t i = 0; i < dim; ++i) {
    const float g = grad[i] + decay * w[i];
    const float x = w[i] * shrink;
    m[i] = b1 * m[i] + c1 * g;
    v[i] = b2 * v[i] + c2 * (g * g);
    w[i] = x - rates.step * m[i] / (__builtin_sqrtf(v[i]) / rates.root + eps);
  }
}

void StepAdam(const OptimizerSpec& spec, UpdateClock clock, uint32_t dim, const float* grad,
              float* w, float* state) {
  AdamStep(spec, RatesAt(spec, clock.row_updates), spec.weight_decay, 1.0f, dim, grad, w, state);
}

void StepLazyAdam(const OptimizerSpec& spec, UpdateClock clock, uint32_t dim, const float* grad,
                  float* w, float* state) {
  AdamStep(spec, RatesAt(spec, clock.table_step), spec.weight_decay, 1.0f, dim, grad, w, state);
}

void StepAdamW(const OptimizerSpec& spec, UpdateClock clock, uint32_t dim, const float* grad,
               float* w, float* state) {
  const float shrink = 1.0f - spec.lr * spec.weight_decay;
  AdamStep(spec, RatesAt(spec, clock.row_updates), 0.0f, shrink, dim, grad, w, state);
}

void StepFtrl(const OptimizerSpec& spec, UpdateClock, uint32_t dim, const float* __restrict grad,
              float* __restrict w, float* __restrict state) {
  float* __restrict z = state;
  float* __restrict n = state + dim;
  const float lr = spec.lr;
  const float beta = spec.beta;
  const float l1 = spec.l1;
  const float l2 = spec.l2;
  for (uint32_t i = 0; i < dim; ++i) {
    const float g = grad[i];
    const float squares = n[i] + g * g;
    const float root = __builtin_sqrtf(squares);
    const float sigma = (root - __builtin_sqrtf(n[i])) / lr;
    const float next = z[i] + (g - sigma * w[i]);
    const float size = __builtin_fabsf(next);
    const float pull = (size - l1) / ((beta + root) / lr + l2);
    z[i] = next;
    n[i] = squares;
    w[i] = size <= l1 ? 0.0f : (next < 0 ? pull : -pull);
  }
}

// ---- storage types ------------------------------------------------------------------------------

// Uniform 32 bits for a column, by MurmurHash3's 32-bit finaliser of a Weyl sequence.
uint32_t NoiseAt(uint32_t seed, uint32_t column) {
  uint32_t x = seed + column * 0x9e3779b9u;
  x = (x ^ (x >> 16)) * 0x85ebca6bu;
  x = (x ^ (x >> 13)) * 0xc2b2ae35u;
  return x ^ (x >> 16);
}

float HalfToFloat(uint32_t half) {
  const uint32_t sign = (half & 0x8000u) << 16;
  const uint32_t magnitude = (half & 0x7fffu) << 13;
  // A multiplication moves the exponent and makes subnormals normal; all ones stays all ones.
  const uint32_t scaled = BitsOf(FloatOf(magnitude) * 0x1p112f);
  const uint32_t special = magnitude >= 0x0f800000u ? 0x7f800000u : 0u;
  return FloatOf(sign | scaled | special);
}

constexpr uint32_t kHalfMax = 0x7bffu;

// Finite values only; beyond the largest half they saturate. `noise` has 13 bits: what is added
// below the last kept bit before cutting there. `tiny` is the half of a value below 2^-14, where
// the unit is 2^-24.
uint32_t FloatToHalf(float value, uint32_t noise, uint32_t tiny) {
  const uint32_t bits = BitsOf(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const float size = __builtin_fabsf(value);
  const uint32_t normal = ((bits & 0x7fffffffu) + noise - 0x38000000u) >> 13;
  const uint32_t half = size < 0x1p-14f ? tiny : normal;
  return sign | (size >= 65520.0f || half > kHalfMax ? kHalfMax : half);
}

uint32_t HalfNearest(float value) {
  // Half a unit, less one bit unless the kept part is odd: ties go to even.
  const uint32_t noise = 0x0fffu + ((BitsOf(value) >> 13) & 1u);
  // The unit of 0.5 is 2^-24 too: the addition rounds to it.
  const uint32_t tiny = BitsOf(__builtin_fabsf(value) + 0.5f) - BitsOf(0.5f);
  return FloatToHalf(value, noise, tiny);
}

uint32_t HalfStochastic(float value, uint32_t noise) {
  const float size = __builtin_fabsf(value);
  const float units = (size < 0x1p-14f ? size : 0.0f) * 0x1p24f;
  const auto tiny =
      static_cast<uint32_t>(static_cast<int32_t>(units + static_cast<float>(noise) * 0x1p-13f));
  return FloatToHalf(value, noise, tiny);
}

uint32_t Bfloat16Of(float value, uint32_t noise) {
  const uint32_t bits = BitsOf(value);
  const uint32_t rounded = (bits + noise) >> 16;
  // Saturates: an infinity, or what would round to one, becomes the largest finite value.
  return (rounded & 0x7f80u) == 0x7f80u ? ((bits >> 16) & 0x8000u) | 0x7f7fu : rounded;
}

constexpr float kInt8Max = 0x1.fep127f;

// Whole vectors in registers: a call of memcpy costs as much as a short row.
void DecodeFloat32(const std::byte* stored, uint32_t dim, float* __restrict values) {
  using Vector = float __attribute__((vector_size(32), aligned(4), may_alias));
  constexpr uint32_t kWidth = sizeof(Vector) / sizeof(float);
  const auto* source = reinterpret_cast<const float*>(stored);
  uint32_t i = 0;
  for (; i + kWidth <= dim; i += kWidth) {
    *reinterpret_cast<Vector*>(values + i) = *reinterpret_cast<const Vector*>(source + i);
  }
  for (; i < dim; ++i) values[i] = source[i];
}

void DecodeFloat16(const std::byte* stored, uint32_t dim, float* __restrict values) {
  const auto* half = reinterpret_cast<const uint16_t*>(stored);
  for (uint32_t i = 0; i < dim; ++i) values[i] = HalfToFloat(half[i]);
}

void DecodeBfloat16(const std::byte* stored, uint32_t dim, float* __restrict values) {
  const auto* half = reinterpret_cast<const uint16_t*>(stored);
  for (uint32_t i = 0; i < dim; ++i) values[i] = FloatOf(uint32_t{half[i]} << 16);
}

void DecodeInt8(const std::byte* stored, uint32_t dim, float* __restrict values) {
  const auto* quanta = reinterpret_cast<const int8_t*>(stored);
  float scale;
  std::memcpy(&scale, stored + (dim + 3) / 4 * 4, sizeof(scale));
  for (uint32_t i = 0; i < dim; ++i) values[i] = static_cast<float>(quanta[i]) * scale;
}

void EncodeFloat32(const float* values, uint32_t dim, Rounding, std::byte* stored) {
  std::memcpy(stored, values, dim * sizeof(float));
}

void EncodeFloat16(const float* values, uint32_t dim, Rounding rounding, std::byte* stored) {
  auto* __restrict half = reinterpret_cast<uint16_t*>(stored);
  if (rounding.kind == Rounding::Kind::kNearest) {
    for (uint32_t i = 0; i < dim; ++i) half[i] = static_cast<uint16_t>(HalfNearest(values[i]));
  } else {
    for (uint32_t i = 0; i < dim; ++i) {
      const uint32_t noise = NoiseAt(rounding.noise, i) & 0x1fffu;
      half[i] = static_cast<uint16_t>(HalfStochastic(values[i], noise));
    }
  }
}

void EncodeBfloat16(const float* values, uint32_t dim, Rounding rounding, std::byte* stored) {
  auto* __restrict half = reinterpret_cast<uint16_t*>(stored);
  if (rounding.kind == Rounding::Kind::kNearest) {
    for (uint32_t i = 0; i < dim; ++i) {
      const uint32_t noise = 0x7fffu + ((BitsOf(values[i]) >> 16) & 1u);
      half[i] = static_cast<uint16_t>(Bfloat16Of(values[i], noise));
    }
  } else {
    for (uint32_t i = 0; i < dim; ++i) {
      half[i] = static_cast<uint16_t>(Bfloat16Of(values[i], NoiseAt(rounding.noise, i) & 0xffffu));
    }
  }
}

void EncodeInt8(const float* values, uint32_t dim, Rounding rounding, std::byte* stored) {
  auto* __restrict quanta = reinterpret_cast<int8_t*>(stored);
  float largest = 0;
  for (uint32_t i = 0; i < dim; ++i) {
    const float size = __builtin_fabsf(values[i]);
    largest = size > largest ? size : largest;
  }
  // Saturates, with room for the scale to round up.
  largest = largest > kInt8Max ? kInt8Max : largest;
  // A subnormal scale would divide badly; such a row is zero for every purpose.
  const float scale = largest < 0x1p-100f ? 0.0f : largest / 127.0f;
  const float inverse = scale == 0.0f ? 0.0f : 127.0f / largest;
  const bool nearest = rounding.kind == Rounding::Kind::kNearest;
  for (uint32_t i = 0; i < dim; ++i) {
    const float noise =
        nearest ? 0.5f : static_cast<float>(NoiseAt(rounding.noise, i) >> 8) * 0x1p-24f;
    // Shifted to be positive, so that cutting the fraction rounds down.
    const float shifted = values[i] * inverse + 128.0f + noise;
    // In this order a NaN is bounded too, before the cast that it must not reach.
    const float bounded = shifted >= 1.0f ? (shifted < 255.0f ? shifted : 255.0f) : 1.0f;
    quanta[i] = static_cast<int8_t>(static_cast<int32_t>(bounded) - 128);
  }
  std::memcpy(stored + (dim + 3) / 4 * 4, &scale, sizeof(scale));
}

}  // namespace

const Kernels& Get() {
  static constexpr Kernels kKernels = {
      .name = EMBERY_QUOTE(EMBERY_SIMD_TARGET),
      .step = {StepSgd, StepMomentum, StepAdagrad, StepRowwiseAdagrad, StepAdam, StepLazyAdam,
               StepAdamW, StepFtrl},
      .sum_rows = SumRows,
      .all_finite = AllFinite,
      .decode = {DecodeFloat32, DecodeFloat16, DecodeBfloat16, DecodeInt8},
      .encode = {EncodeFloat32, EncodeFloat16, EncodeBfloat16, EncodeInt8},
  };
  return kKernels;
}

}  // namespace embery::EMBERY_SIMD_NAMESPACE
