// The narrow storage types of the kernels against references by arithmetic in double.
#include <cmath>
#include <cstring>
#include <initializer_list>
#include <random>

#include "base/testing.h"
#include "optim/kernels.h"

namespace embery {
namespace {

constexpr auto kHalf = static_cast<size_t>(ValueType::kFloat16);
constexpr auto kBrain = static_cast<size_t>(ValueType::kBfloat16);
constexpr auto kQuanta = static_cast<size_t>(ValueType::kInt8);
constexpr float kHalfMax = 65504.0f;
constexpr float kBrainMax = 0x1.fep127f;

// The best target: kernels_test shows that all give the same bits.
const Kernels& Best() {
  static const Kernels& best = *FindKernels("auto").value();
  return best;
}

float FloatOfBits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

std::vector<uint16_t> Encode(size_t type, const std::vector<float>& values, Rounding rounding) {
  const auto dim = static_cast<uint32_t>(values.size());
  std::vector<uint16_t> stored(ValueBytes(static_cast<ValueType>(type), dim) / sizeof(uint16_t));
  Best().encode[type](values.data(), dim, rounding, reinterpret_cast<std::byte*>(stored.data()));
  stored.resize(dim);
  return stored;
}

std::vector<float> Decode(size_t type, const std::vector<uint16_t>& stored) {
  std::vector<float> values(stored.size());
  Best().decode[type](reinterpret_cast<const std::byte*>(stored.data()),
                      static_cast<uint32_t>(stored.size()), values.data());
  return values;
}

std::vector<float> Rounded(size_t type, const std::vector<float>& values, Rounding rounding = {}) {
  return Decode(type, Encode(type, values, rounding));
}

std::vector<uint16_t> AllSixteenBits() {
  std::vector<uint16_t> all(1 << 16);
  for (uint32_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint16_t>(i);
  return all;
}

// What IEEE 754 says a half means.
double MeaningOfHalf(uint32_t half) {
  const int exponent = static_cast<int>(half >> 10 & 31);
  const auto fraction = static_cast<double>(half & 1023);
  const double sign = (half & 0x8000) != 0 ? -1 : 1;
  if (exponent == 31) return fraction == 0 ? sign * INFINITY : NAN;
  if (exponent == 0) return sign * std::ldexp(fraction, -24);
  return sign * std::ldexp(1024 + fraction, exponent - 25);
}

// `value` in a binary format: `fraction` bits after the point, normal from 2^exponent_min on.
struct Format {
  int fraction;
  int exponent_min;
  float largest;

  double Unit(float value) const {
    const int exponent = value == 0 ? exponent_min : std::ilogb(value);
    return std::ldexp(1.0, std::max(exponent, exponent_min) - fraction);
  }
  // Ties go to even, as the default rounding mode of nearbyint does.
  float Nearest(float value) const {
    const double rounded = std::nearbyint(value / Unit(value)) * Unit(value);
    return std::abs(rounded) > largest ? std::copysign(largest, value)
                                       : static_cast<float>(rounded);
  }
};

constexpr Format kHalfFormat{10, -14, kHalfMax};
constexpr Format kBrainFormat{7, -126, kBrainMax};

// Finite floats of all sizes, and all that lie half-way between neighbours of a type, with theirs.
std::vector<float> HardValues(size_t type) {
  std::vector<float> values;
  std::vector<float> exact = Decode(type, AllSixteenBits());
  for (size_t i = 0; i + 1 < exact.size(); ++i) {
    if (!std::isfinite(exact[i]) || !std::isfinite(exact[i + 1])) continue;
    const float middle = exact[i] / 2 + exact[i + 1] / 2;
    for (const float value :
         {exact[i], middle, std::nextafter(middle, 0.0f), std::nextafter(middle, exact[i] * 2)}) {
      values.push_back(value);
    }
  }
  std::mt19937 random(1);
  while (values.size() < 500000) {
    const float value = FloatOfBits(static_cast<uint32_t>(random()));
    if (std::isfinite(value)) values.push_back(value);
  }
  return values;
}

void CheckNearest(size_t type, const Format& format) {
  const std::vector<float> values = HardValues(type);
  const std::vector<float> rounded = Rounded(type, values);
  for (size_t i = 0; i < values.size(); ++i) {
    CHECK_EQ(rounded[i], format.Nearest(values[i]));
    CHECK_EQ(std::signbit(rounded[i]), std::signbit(values[i]));
  }
}

// Rounds to one of the two neighbours, and to the right one on average.
void CheckStochastic(size_t type, const Format& format) {
  std::mt19937 random(2);
  for (const float value : {1.3f, -0.77f, 1000.1f, 3.3e-5f, -5.1e-7f, 2.6e-8f}) {
    const double unit = format.Unit(value);
    constexpr int kRounds = 4096;
    double sum = 0;
    for (int round = 0; round < kRounds; ++round) {
      const Rounding rounding{Rounding::Kind::kStochastic, static_cast<uint32_t>(random())};
      const float rounded = Rounded(type, {value}, rounding)[0];
      CHECK_TRUE(std::abs(double{rounded} - value) < unit);
      CHECK_EQ(std::fmod(rounded, unit), 0.0);
      sum += double{rounded} - value;
    }
    // Six standard errors, of at most half a unit a draw.
    CHECK_TRUE(std::abs(sum / kRounds) < 6 * 0.5 * unit / std::sqrt(kRounds));
  }
}

void CheckExactValuesStay(size_t type) {
  std::vector<uint16_t> all;
  for (const uint16_t bits : AllSixteenBits()) {
    if (std::isfinite(Decode(type, {bits})[0])) all.push_back(bits);
  }
  const std::vector<float> values = Decode(type, all);
  CHECK_TRUE(Encode(type, values, {}) == all);
  for (const uint32_t noise : {0u, 1u, 0xffffffffu}) {
    CHECK_TRUE(Encode(type, values, {Rounding::Kind::kStochastic, noise}) == all);
  }
}

// ---- float16, bfloat16 --------------------------------------------------------------------------

TEST(EveryHalfIsReadAsWhatItMeans) {
  const std::vector<float> values = Decode(kHalf, AllSixteenBits());
  for (uint32_t half = 0; half < values.size(); ++half) {
    const double meaning = MeaningOfHalf(half);
    if (std::isnan(meaning)) {
      CHECK_TRUE(std::isnan(values[half]));
    } else {
      CHECK_EQ(double{values[half]}, meaning);
      CHECK_EQ(std::signbit(values[half]), (half & 0x8000) != 0);
    }
  }
}

TEST(EveryBfloat16IsTheUpperHalfOfAFloat) {
  const std::vector<float> values = Decode(kBrain, AllSixteenBits());
  for (uint32_t bits = 0; bits < values.size(); ++bits) {
    const float meaning = FloatOfBits(bits << 16);
    CHECK_EQ(std::memcmp(&values[bits], &meaning, sizeof(meaning)), 0);
  }
}

TEST(HalvesRoundToNearestTiesToEven) { CheckNearest(kHalf, kHalfFormat); }
TEST(Bfloat16sRoundToNearestTiesToEven) { CheckNearest(kBrain, kBrainFormat); }
TEST(HalvesRoundStochasticallyWithoutBias) { CheckStochastic(kHalf, kHalfFormat); }
TEST(Bfloat16sRoundStochasticallyWithoutBias) { CheckStochastic(kBrain, kBrainFormat); }
TEST(ValuesThatAHalfHoldsStayAsTheyAre) { CheckExactValuesStay(kHalf); }
TEST(ValuesThatABfloat16HoldsStayAsTheyAre) { CheckExactValuesStay(kBrain); }

TEST(ValuesBeyondTheLargestSaturate) {
  const std::vector<float> values = {65520.0f, -65520.0f, 1e6f, -3.0e38f};
  const std::vector<float> largest = {kHalfMax, -kHalfMax, kHalfMax, -kHalfMax};
  CHECK_TRUE(Rounded(kHalf, values) == largest);
  CHECK_TRUE(Rounded(kBrain, {FloatOfBits(0x7f7fffff)}) == std::vector<float>{kBrainMax});
  for (const uint32_t noise : {1u, 77u, 0xffffffffu}) {
    const Rounding rounding{Rounding::Kind::kStochastic, noise};
    CHECK_TRUE(Rounded(kHalf, values, rounding) == largest);
    CHECK_TRUE(Rounded(kBrain, {FloatOfBits(0xff7fffff)}, rounding) ==
               std::vector<float>{-kBrainMax});
  }
}

// ---- int8 ---------------------------------------------------------------------------------------

struct Quantized {
  std::vector<int8_t> quanta;
  float scale;
  std::vector<float> values;
};

Quantized Quantize(const std::vector<float>& values, Rounding rounding = {}) {
  const auto dim = static_cast<uint32_t>(values.size());
  std::vector<std::byte> stored(ValueBytes(ValueType::kInt8, dim));
  Best().encode[kQuanta](values.data(), dim, rounding, stored.data());
  Quantized result{std::vector<int8_t>(dim), 0, std::vector<float>(dim)};
  std::memcpy(result.quanta.data(), stored.data(), dim);
  std::memcpy(&result.scale, stored.data() + stored.size() - sizeof(float), sizeof(float));
  Best().decode[kQuanta](stored.data(), dim, result.values.data());
  return result;
}

std::vector<float> NormalRow(std::mt19937& random, size_t dim, float size) {
  std::normal_distribution<float> normal(0.0f, size);
  std::vector<float> values(dim);
  for (float& value : values) value = normal(random);
  return values;
}

TEST(Int8RowsAreWithinHalfAQuantumOfTheirValues) {
  std::mt19937 random(3);
  for (const size_t dim : std::initializer_list<size_t>{1, 2, 3, 4, 5, 16, 31, 33, 100, 4096}) {
    for (const float size : {1e-20f, 0.01f, 1.0f, 1e30f}) {
      const std::vector<float> values = NormalRow(random, dim, size);
      const Quantized row = Quantize(values);
      float largest = 0;
      for (const float value : values) largest = std::max(largest, std::abs(value));
      CHECK_EQ(row.scale, largest / 127.0f);
      for (size_t i = 0; i < dim; ++i) {
        CHECK_TRUE(row.quanta[i] >= -127);
        CHECK_EQ(row.values[i], static_cast<float>(row.quanta[i]) * row.scale);
        CHECK_TRUE(std::abs(row.values[i] - values[i]) <= 0.5001f * row.scale);
        if (std::abs(values[i]) == largest) CHECK_EQ(std::abs(row.quanta[i]), 127);
      }
    }
  }
}

TEST(Int8RowsThatAreNearlyZeroAreZero) {
  for (const float value : {0.0f, 0x1p-149f, -0x1p-126f, 0x1p-101f}) {
    const Quantized row = Quantize(std::vector<float>(7, value));
    CHECK_EQ(row.scale, 0.0f);
    CHECK_TRUE(row.values == std::vector<float>(7, 0.0f));
  }
}

TEST(Int8RoundsStochasticallyWithoutBias) {
  std::mt19937 random(4);
  const std::vector<float> values = {1.0f, 0.3f, -0.2f, 0.111f, -0.999f, 0.0f};
  constexpr int kRounds = 4096;
  std::vector<double> sums(values.size());
  for (int round = 0; round < kRounds; ++round) {
    const Quantized row =
        Quantize(values, {Rounding::Kind::kStochastic, static_cast<uint32_t>(random())});
    for (size_t i = 0; i < values.size(); ++i) {
      CHECK_TRUE(std::abs(row.values[i] - values[i]) < 1.0001f * row.scale);
      sums[i] += double{row.values[i]} - values[i];
    }
  }
  for (const double sum : sums) {
    CHECK_TRUE(std::abs(sum / kRounds) < 6 * 0.5 / 127 / std::sqrt(kRounds));
  }
}

TEST(ColumnsOfARowAreRoundedIndependently) {
  const std::vector<float> values(4096, 1.0f + 0x1p-11f);
  size_t up = 0;
  for (const float rounded : Rounded(kHalf, values, {Rounding::Kind::kStochastic, 99})) {
    up += rounded > 1.0f ? 1 : 0;
  }
  // Half of them, within six standard errors.
  CHECK_TRUE(up > 2048 - 6 * 32 && up < 2048 + 6 * 32);
}

}  // namespace
}  // namespace embery

EMBERY_TEST_MAIN()
