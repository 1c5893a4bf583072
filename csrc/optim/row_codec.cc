#include "optim/row_codec.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "base/float_environment.h"

namespace embery {
namespace {

// The NaN with no more than its quiet bit.
constexpr uint16_t kHalfNan = 0x7e00;
constexpr uint16_t kBfloat16Nan = 0x7fc0;

// No row has more padding than its last 8 bytes hold.
void ClearPadding(std::byte* encoded, size_t row_bytes) {
  const size_t tail = std::min<size_t>(row_bytes, 8);
  std::memset(encoded + row_bytes - tail, 0, tail);
}

void WriteNan(ValueType type, uint32_t dim, std::byte* encoded) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  const size_t row_bytes = ValueBytes(type, dim);
  switch (type) {
    case ValueType::kFloat32:
      std::fill_n(reinterpret_cast<float*>(encoded), dim, kNan);
      return;
    case ValueType::kFloat16:
      std::fill_n(reinterpret_cast<uint16_t*>(encoded), dim, kHalfNan);
      return;
    case ValueType::kBfloat16:
      std::fill_n(reinterpret_cast<uint16_t*>(encoded), dim, kBfloat16Nan);
      return;
    case ValueType::kInt8:
      // Whatever is multiplied by the scale is NaN.
      std::memset(encoded, 0, row_bytes);
      std::memcpy(encoded + row_bytes - sizeof(kNan), &kNan, sizeof(kNan));
      return;
  }
}

}  // namespace

RowKind EncodeRow(const Kernels& kernels, ValueType type, const float* values, uint32_t dim,
                  std::byte* encoded) {
  const RowKind kind = kernels.all_finite(values, dim) ? RowKind::kFinite : RowKind::kNotFinite;
  ClearPadding(encoded, ValueBytes(type, dim));
  if (kind == RowKind::kNotFinite) {
    WriteNan(type, dim, encoded);
  } else {
    kernels.encode[static_cast<size_t>(type)](values, dim, {}, encoded);
  }
  return kind;
}

void DecodeRows(const Kernels& kernels, ValueType type, const std::byte* encoded, size_t count,
                uint32_t dim, float* values) {
  const Kernels::DecodeFn decode = kernels.decode[static_cast<size_t>(type)];
  const size_t row_bytes = ValueBytes(type, dim);
  const DefaultFloatEnvironment environment;
  for (size_t i = 0; i < count; ++i) decode(encoded + i * row_bytes, dim, values + i * dim);
}

void RowWriter::WriteZeros(size_t position) const {
  // Zero is all zeros in every type.
  std::memset(out_.data + position * row_bytes_, 0, row_bytes_);
}

void RowWriter::WriteNarrow(const std::byte* stored, float* scratch, std::byte* to) const {
  if (out_.type == stored_type_) {
    std::memcpy(to, stored, row_bytes_);
    return;
  }
  decode_(stored, dim_, scratch);
  EncodeRow(kernels_, out_.type, scratch, dim_, to);
}

}  // namespace embery
