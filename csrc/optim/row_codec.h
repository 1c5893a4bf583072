// Rows as they travel: one of the storage types, made safe for values that no store has checked.
//
// A kernel's encoder expects finite values and leaves padding as it was. Here a row with a NaN or
// an infinity becomes NaN in every column, in whatever type, so that who reads it knows; padding is
// zero, so that equal rows are equal bytes and no memory of the sender leaks. Beyond the largest
// value of a type (65504 for float16) numbers saturate.
//
// Thread-safety: pure functions on the caller's memory, which must be aligned to 4 bytes.
// Invariant: the same bits on every SIMD target.
#pragma once

#include <cstddef>
#include <cstdint>

#include "optim/kernels.h"
#include "optim/spec.h"

namespace embery {

enum class RowKind : uint8_t { kFinite, kNotFinite };

// Rounds `values` (dim) to nearest and writes ValueBytes(type, dim) bytes.
RowKind EncodeRow(const Kernels& kernels, ValueType type, const float* values, uint32_t dim,
                  std::byte* encoded);

// Reads `count` rows of ValueBytes(type, dim) bytes each into `values` (count, dim), in the default
// float environment.
void DecodeRows(const Kernels& kernels, ValueType type, const std::byte* encoded, size_t count,
                uint32_t dim, float* values);

// Where rows are written, and as what: ValueBytes(type, dim) bytes each, without gaps.
struct RowsOut {
  explicit RowsOut(float* rows) : data(reinterpret_cast<std::byte*>(rows)) {}
  RowsOut(std::byte* rows, ValueType as) : data(rows), type(as) {}

  std::byte* data;
  ValueType type = ValueType::kFloat32;
};

// Writes rows of a store: as they are stored where the types agree, else decoded and encoded again.
class RowWriter {
 public:
  RowWriter(const Kernels& kernels, ValueType stored_type, uint32_t dim, RowsOut out)
      : kernels_(kernels),
        stored_type_(stored_type),
        dim_(dim),
        out_(out),
        row_bytes_(ValueBytes(out.type, dim)),
        decode_(kernels.decode[static_cast<size_t>(stored_type)]) {}

  // `scratch` has room for dim floats, and may be null if rows are written as float32.
  void Write(size_t position, const std::byte* stored, float* scratch) const {
    std::byte* to = out_.data + position * row_bytes_;
    if (out_.type == ValueType::kFloat32) {
      decode_(stored, dim_, reinterpret_cast<float*>(to));
    } else {
      WriteNarrow(stored, scratch, to);
    }
  }
  void WriteZeros(size_t position) const;

 private:
  void WriteNarrow(const std::byte* stored, float* scratch, std::byte* to) const;

  const Kernels& kernels_;
  const ValueType stored_type_;
  const uint32_t dim_;
  const RowsOut out_;
  const size_t row_bytes_;
  const Kernels::DecodeFn decode_;
};

}  // namespace embery
