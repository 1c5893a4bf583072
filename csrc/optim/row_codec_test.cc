// Rows as they travel: every type and target, values that are not finite, padding.
#include "optim/row_codec.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <random>
#include <span>
#include <vector>

#include "base/testing.h"

namespace embery {
namespace {

constexpr uint32_t kDims[] = {1, 2, 3, 4, 5, 16, 31, 64, 100};
constexpr ValueType kTypes[] = {ValueType::kFloat32, ValueType::kFloat16, ValueType::kBfloat16,
                                ValueType::kInt8};

const Kernels& Best() { return *FindKernels("auto").value(); }

struct Encoded {
  std::vector<std::byte> bytes;
  RowKind kind;
};

Encoded Encode(const Kernels& kernels, ValueType type, const std::vector<float>& values) {
  const auto dim = static_cast<uint32_t>(values.size());
  // Not zero, as memory that was used before.
  Encoded encoded{std::vector<std::byte>(ValueBytes(type, dim), std::byte{0xa5}), {}};
  encoded.kind = EncodeRow(kernels, type, values.data(), dim, encoded.bytes.data());
  return encoded;
}

std::vector<float> Decode(const Kernels& kernels, ValueType type, std::span<const std::byte> bytes,
                          uint32_t dim) {
  std::vector<float> values(bytes.size() / ValueBytes(type, dim) * dim);
  DecodeRows(kernels, type, bytes.data(), values.size() / dim, dim, values.data());
  return values;
}

std::vector<float> RandomRow(uint32_t dim, std::mt19937_64& random) {
  std::normal_distribution<float> normal;
  const float size = std::ldexp(1.0f, static_cast<int>(random() % 50) - 40);
  std::vector<float> values(dim);
  for (float& value : values) value = normal(random) * size;
  return values;
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

TEST(EveryTargetGivesTheSameBytesAndValues) {
  std::mt19937_64 random(1);
  const Kernels& baseline = *FindKernels("baseline").value();
  for (const std::string& target : SimdTargets()) {
    const Kernels& kernels = *FindKernels(target).value();
    for (int round = 0; round < 200; ++round) {
      const uint32_t dim = kDims[random() % std::size(kDims)];
      std::vector<float> row = RandomRow(dim, random);
      if (round % 10 == 0) row[random() % dim] = round % 20 == 0 ? NAN : -INFINITY;
      for (const ValueType type : kTypes) {
        const Encoded expected = Encode(baseline, type, row);
        CHECK_TRUE(Encode(kernels, type, row).bytes == expected.bytes);
        CHECK_TRUE(SameBits(Decode(kernels, type, expected.bytes, dim),
                            Decode(baseline, type, expected.bytes, dim)));
      }
    }
  }
}

TEST(FiniteRowsComeBackAsNearAsTheirTypeAllows) {
  std::mt19937_64 random(2);
  for (const uint32_t dim : kDims) {
    const std::vector<float> row = RandomRow(dim, random);
    float largest = 0;
    for (const float value : row) largest = std::max(largest, std::abs(value));
    for (const ValueType type : kTypes) {
      const Encoded encoded = Encode(Best(), type, row);
      CHECK_TRUE(encoded.kind == RowKind::kFinite);
      const std::vector<float> back = Decode(Best(), type, encoded.bytes, dim);
      for (uint32_t i = 0; i < dim; ++i) {
        const float error = std::abs(back[i] - row[i]);
        switch (type) {
          case ValueType::kFloat32:
            CHECK_EQ(error, 0.0f);
            break;
          case ValueType::kFloat16:
            CHECK_TRUE(error <= std::max(std::abs(row[i]) * 0x1p-11f, 0x1p-25f));
            break;
          case ValueType::kBfloat16:
            CHECK_TRUE(error <= std::abs(row[i]) * 0x1p-8f);
            break;
          case ValueType::kInt8:
            CHECK_TRUE(error <= largest / 127 * 0.5001f);
            break;
        }
      }
    }
  }
}

TEST(OneValueThatIsNotFiniteMakesItsWholeRowNan) {
  for (const ValueType type : kTypes) {
    for (const uint32_t dim : kDims) {
      for (const float bad :
           {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
            -std::numeric_limits<float>::infinity()}) {
        std::vector<float> row(dim, 1.0f);
        row[dim / 2] = bad;
        const Encoded encoded = Encode(Best(), type, row);
        CHECK_TRUE(encoded.kind == RowKind::kNotFinite);
        for (const float value : Decode(Best(), type, encoded.bytes, dim)) {
          CHECK_TRUE(std::isnan(value));
        }
      }
    }
  }
}

TEST(LargeValuesSaturateAndStayFinite) {
  constexpr float kMax = std::numeric_limits<float>::max();
  constexpr float kBrainMax = 0x1.fep127f;
  const std::vector<float> row = {kMax, -kMax, 65520.0f, 1.0f};
  const auto back = [&row](ValueType type) {
    const Encoded encoded = Encode(Best(), type, row);
    CHECK_TRUE(encoded.kind == RowKind::kFinite);
    return Decode(Best(), type, encoded.bytes, 4);
  };
  CHECK_TRUE((back(ValueType::kFloat16) == std::vector<float>{65504, -65504, 65504, 1}));
  CHECK_TRUE((back(ValueType::kBfloat16) == std::vector<float>{kBrainMax, -kBrainMax, 65536, 1}));
  const std::vector<float> quanta = back(ValueType::kInt8);
  CHECK_TRUE(std::isfinite(quanta[0]) && quanta[0] > 0.99f * kBrainMax);
  CHECK_EQ(quanta[1], -quanta[0]);
  CHECK_EQ(quanta[3], 0.0f);
}

TEST(SmallValuesKeepWhatTheirTypeHolds) {
  // The smallest half, half of it, which ties to even, and a subnormal float32.
  const std::vector<float> row = {0x1p-24f, -0x1p-25f, 0x1p-140f};
  const auto back = [&row](ValueType type) {
    return Decode(Best(), type, Encode(Best(), type, row).bytes, 3);
  };
  CHECK_TRUE((back(ValueType::kFloat16) == std::vector<float>{0x1p-24f, 0, 0}));
  CHECK_TRUE((back(ValueType::kBfloat16) == std::vector<float>{0x1p-24f, -0x1p-25f, 0}));
  // Rows below 2^-100 are zero in int8.
  const std::vector<float> tiny(3, 0x1p-101f);
  CHECK_TRUE(Decode(Best(), ValueType::kInt8, Encode(Best(), ValueType::kInt8, tiny).bytes, 3) ==
             std::vector<float>(3, 0.0f));
}

TEST(EqualRowsAreEqualBytesWhateverWasThere) {
  for (const ValueType type : kTypes) {
    for (const uint32_t dim : kDims) {
      for (const float value : {1.5f, std::numeric_limits<float>::quiet_NaN()}) {
        const std::vector<float> row(dim, value);
        std::vector<std::byte> zeroed(ValueBytes(type, dim));
        EncodeRow(Best(), type, row.data(), dim, zeroed.data());
        CHECK_TRUE(Encode(Best(), type, row).bytes == zeroed);
      }
    }
  }
}

TEST(RowsOfAStoreAreWrittenAsAnyType) {
  std::mt19937_64 random(3);
  constexpr uint32_t kDim = 5;
  for (const ValueType stored_type : kTypes) {
    const std::vector<std::byte> stored =
        Encode(Best(), stored_type, RandomRow(kDim, random)).bytes;
    const std::vector<float> values = Decode(Best(), stored_type, stored, kDim);
    for (const ValueType type : kTypes) {
      const size_t row_bytes = ValueBytes(type, kDim);
      const std::vector<std::byte> untouched(row_bytes, std::byte{0xa5});
      std::vector<std::byte> out(3 * row_bytes, std::byte{0xa5});
      const RowWriter writer(Best(), stored_type, kDim, RowsOut(out.data(), type));
      float scratch[kDim];
      writer.Write(1, stored.data(), scratch);
      writer.WriteZeros(2);
      const auto row = [&](size_t i) {
        return std::span<const std::byte>(out).subspan(i * row_bytes, row_bytes);
      };
      const std::vector<std::byte> expected =
          type == stored_type ? stored : Encode(Best(), type, values).bytes;
      CHECK_TRUE(std::ranges::equal(row(0), untouched));
      CHECK_TRUE(std::ranges::equal(row(1), expected));
      CHECK_TRUE(Decode(Best(), type, row(2), kDim) == std::vector<float>(kDim, 0.0f));
    }
  }
}

}  // namespace
}  // namespace embery

EMBERY_TEST_MAIN()
