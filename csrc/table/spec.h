// The definition of a table, as the Python side validated it.
//
// Thread-safety: value types.
#pragma once

#include <cstdint>
#include <string>

#include "optim/spec.h"

namespace embery {

struct AdmissionSpec {
  enum class Kind : uint8_t { kAll, kMinCount, kProbability };
  Kind kind = Kind::kAll;
  uint16_t min_count = 0;
  double probability = 1;
  uint64_t seed = 0;

  friend bool operator==(const AdmissionSpec&, const AdmissionSpec&) = default;
};

struct EvictionSpec {
  enum class Kind : uint8_t { kNone, kTtl, kLru, kLfu };
  Kind kind = Kind::kNone;
  uint32_t ttl_s = 0;
  uint64_t rows_max = 0;

  friend bool operator==(const EvictionSpec&, const EvictionSpec&) = default;
};

enum class NonFinite : uint8_t { kReject, kRaise };

struct TableSpec {
  std::string name;
  uint64_t salt = 0;  // Of the name: see hash.h.
  uint32_t dim = 0;
  ValueType value_type = ValueType::kFloat32;
  OptimizerSpec optimizer;
  InitializerSpec initializer;
  AdmissionSpec admission;
  EvictionSpec eviction;
  NonFinite non_finite = NonFinite::kReject;

  friend bool operator==(const TableSpec&, const TableSpec&) = default;
};

}  // namespace embery
