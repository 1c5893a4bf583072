// What a table's rows hold and how they are updated: plain values, no behaviour.
//
// Thread-safety: value types. Invariant: a spec was validated by the Python definitions
// (embery/table.py, optim.py, init.py), whose docstrings give the formulas and their sources.
#pragma once

#include <cstddef>
#include <cstdint>

namespace embery {

enum class ValueType : uint8_t { kFloat32, kFloat16, kBfloat16, kInt8 };
inline constexpr size_t kValueTypes = 4;

enum class OptimizerKind : uint8_t {
  kSgd,
  kMomentum,
  kAdagrad,
  kRowwiseAdagrad,
  kAdam,
  kLazyAdam,
  kAdamW,
  kFtrl,
};
inline constexpr size_t kOptimizerKinds = 8;

struct OptimizerSpec {
  OptimizerKind kind = OptimizerKind::kSgd;
  float lr = 0;
  float weight_decay = 0;
  float momentum = 0;
  float eps = 0;
  float initial_accumulator = 0;
  double beta1 = 0;
  double beta2 = 0;
  float beta = 0;
  float l1 = 0;
  float l2 = 0;

  friend bool operator==(const OptimizerSpec&, const OptimizerSpec&) = default;
};

enum class InitializerKind : uint8_t { kZeros, kConstant, kUniform, kNormal, kTruncatedNormal };

struct InitializerSpec {
  InitializerKind kind = InitializerKind::kZeros;
  double a = 0;  // Constant: value; Uniform: scale; Normal: standard deviation.
  double b = 0;  // Normal: mean.
  uint64_t seed = 0;

  friend bool operator==(const InitializerSpec&, const InitializerSpec&) = default;
};

// Which update of a row this is: both counts start at 1 and include the update itself.
struct UpdateClock {
  uint64_t row_updates;
  uint64_t table_step;
};

constexpr size_t ValueBytes(ValueType type, uint32_t dim) {
  switch (type) {
    case ValueType::kFloat32:
      return size_t{dim} * 4;
    case ValueType::kFloat16:
    case ValueType::kBfloat16:
      return (size_t{dim} * 2 + 3) / 4 * 4;
    case ValueType::kInt8:
      return (size_t{dim} + 3) / 4 * 4 + 4;  // The row's scale, a float32, comes last.
  }
  return 0;
}

constexpr uint32_t StateFloats(OptimizerKind kind, uint32_t dim) {
  switch (kind) {
    case OptimizerKind::kSgd:
      return 0;
    case OptimizerKind::kRowwiseAdagrad:
      return 1;
    case OptimizerKind::kMomentum:
    case OptimizerKind::kAdagrad:
      return dim;
    case OptimizerKind::kAdam:
    case OptimizerKind::kLazyAdam:
    case OptimizerKind::kAdamW:
    case OptimizerKind::kFtrl:
      return 2 * dim;
  }
  return 0;
}

}  // namespace embery
