#include "optim/initializer.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/random.h"

namespace embery {
namespace {

// Mass of the standard normal below -2, where the truncated one starts.
constexpr double kMassBelowMinusTwo = 0.022750131948179207;

// Natural logarithm of a normal positive x by the series of atanh: IEEE operations only, so that
// its bits do not depend on a libm.
double Log(double x) {
  constexpr double kLn2 = 0.693147180559945309417232;
  auto bits = std::bit_cast<uint64_t>(x);
  auto exponent = static_cast<int>(bits >> 52) - 1023;
  double m = std::bit_cast<double>((bits & 0x000fffffffffffffULL) | 0x3ff0000000000000ULL);
  if (m > 1.4142135623730951) {
    m *= 0.5;
    ++exponent;
  }
  const double s = (m - 1.0) / (m + 1.0);
  const double square = s * s;
  double sum = 0.0;
  for (int k = 21; k >= 1; k -= 2) sum = sum * square + 1.0 / k;
  return 2.0 * s * sum + exponent * kLn2;
}

template <size_t n>
double Polynomial(const double (&coefficients)[n], double x) {
  double value = coefficients[n - 1];
  for (size_t i = n - 1; i-- > 0;) value = value * x + coefficients[i];
  return value;
}

// Coefficients of AS 241, lowest power first: centre, shoulder, tail.
constexpr double kA[] = {3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3,
                         1.3731693765509461125e4, 4.5921953931549871457e4, 6.7265770927008700853e4,
                         3.3430575583588128105e4, 2.5090809287301226727e3};
constexpr double kB[] = {1.0,
                         4.2313330701600911252e1,
                         6.8718700749205790830e2,
                         5.3941960214247511077e3,
                         2.1213794301586595867e4,
                         3.9307895800092710610e4,
                         2.8729085735721942674e4,
                         5.2264952788528545610e3};
constexpr double kC[] = {1.42343711074968357734e0,  4.63033784615654529590e0,
                         5.76949722146069140550e0,  3.64784832476320460504e0,
                         1.27045825245236838258e0,  2.41780725177450611770e-1,
                         2.27238449892691845833e-2, 7.74545014278341407640e-4};
constexpr double kD[] = {1.0,
                         2.05319162663775882187e0,
                         1.67638483018380384940e0,
                         6.89767334985100004550e-1,
                         1.48103976427480074590e-1,
                         1.51986665636164571966e-2,
                         5.47593808499534494600e-4,
                         1.05075007164441684324e-9};
constexpr double kE[] = {6.65790464350110377720e0,  5.46378491116411436990e0,
                         1.78482653991729133580e0,  2.96560571828504891230e-1,
                         2.65321895265761230930e-2, 1.24266094738807843860e-3,
                         2.71155556874348757815e-5, 2.01033439929228813265e-7};
constexpr double kF[] = {1.0,
                         5.99832206555887937690e-1,
                         1.36929880922735805310e-1,
                         1.48753612908506148525e-2,
                         7.86869131145613259100e-4,
                         1.84631831751005468180e-5,
                         1.42151175831644588870e-7,
                         2.04426310338993978564e-15};

float NormalAt(const InitializerSpec& spec, double p) {
  return static_cast<float>(spec.b + spec.a * NormalQuantile(p));
}

}  // namespace

double NormalQuantile(double p) {
  const double q = p - 0.5;
  if (std::abs(q) <= 0.425) {
    const double r = 0.180625 - q * q;
    return q * Polynomial(kA, r) / Polynomial(kB, r);
  }
  const double tail = q < 0 ? p : 1.0 - p;
  double r = std::sqrt(-Log(tail));
  double value = 0;
  if (r <= 5.0) {
    r -= 1.6;
    value = Polynomial(kC, r) / Polynomial(kD, r);
  } else {
    r -= 5.0;
    value = Polynomial(kE, r) / Polynomial(kF, r);
  }
  return q < 0 ? -value : value;
}

void InitializeValues(const InitializerSpec& spec, uint64_t key, uint32_t dim, float* values) {
  const RandomStream random(spec.seed, key);
  switch (spec.kind) {
    case InitializerKind::kZeros:
      std::fill_n(values, dim, 0.0f);
      break;
    case InitializerKind::kConstant:
      std::fill_n(values, dim, static_cast<float>(spec.a));
      break;
    case InitializerKind::kUniform:
      for (uint32_t i = 0; i < dim; ++i) {
        values[i] = static_cast<float>(spec.a * (2.0 * random.UnitAt(i) - 1.0));
      }
      break;
    case InitializerKind::kNormal:
      for (uint32_t i = 0; i < dim; ++i) values[i] = NormalAt(spec, random.UnitAt(i));
      break;
    case InitializerKind::kTruncatedNormal:
      for (uint32_t i = 0; i < dim; ++i) {
        const double width = 1.0 - 2.0 * kMassBelowMinusTwo;
        values[i] = NormalAt(spec, kMassBelowMinusTwo + width * random.UnitAt(i));
      }
      break;
  }
}

void InitializeState(const OptimizerSpec& spec, uint32_t dim, const float* values, float* state) {
  switch (spec.kind) {
    case OptimizerKind::kAdagrad:
    case OptimizerKind::kRowwiseAdagrad:
      std::fill_n(state, StateFloats(spec.kind, dim), spec.initial_accumulator);
      break;
    case OptimizerKind::kFtrl:
      // The z for which the closed form gives back the initial value while n is 0.
      for (uint32_t i = 0; i < dim; ++i) {
        const float w = values[i];
        const float size = std::abs(w) * (spec.beta / spec.lr + spec.l2) + (w != 0 ? spec.l1 : 0);
        state[i] = w < 0 ? size : -size;
        state[dim + i] = 0;
      }
      break;
    default:
      std::fill_n(state, StateFloats(spec.kind, dim), 0.0f);
  }
}

}  // namespace embery
