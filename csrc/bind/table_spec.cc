#include "bind/table_spec.h"

#include <string>
#include <utility>

#include "batch/murmur3.h"
#include "bind/bind.h"

namespace py = pybind11;

namespace embery {
namespace {

template <typename Enum, size_t n>
Enum ParseKind(const std::pair<const char*, Enum> (&kinds)[n], const std::string& what,
               const std::string& kind) {
  for (const auto& [name, value] : kinds) {
    if (kind == name) return value;
  }
  ThrowIfError(Status::InvalidArgument("unknown " + what + " '" + kind + "'"));
  return kinds[0].second;
}

constexpr std::pair<const char*, ValueType> kValueTypeNames[] = {
    {"float32", ValueType::kFloat32},
    {"float16", ValueType::kFloat16},
    {"bfloat16", ValueType::kBfloat16},
    {"int8", ValueType::kInt8},
};
constexpr std::pair<const char*, Pooling> kPoolingNames[] = {
    {"sum", Pooling::kSum},
    {"mean", Pooling::kMean},
    {"sqrtn", Pooling::kSqrtN},
};
constexpr std::pair<const char*, OptimizerKind> kOptimizerNames[] = {
    {"sgd", OptimizerKind::kSgd},         {"momentum", OptimizerKind::kMomentum},
    {"adagrad", OptimizerKind::kAdagrad}, {"rowwise_adagrad", OptimizerKind::kRowwiseAdagrad},
    {"adam", OptimizerKind::kAdam},       {"lazy_adam", OptimizerKind::kLazyAdam},
    {"adamw", OptimizerKind::kAdamW},     {"ftrl", OptimizerKind::kFtrl},
};
constexpr std::pair<const char*, InitializerKind> kInitializerNames[] = {
    {"zeros", InitializerKind::kZeros},
    {"constant", InitializerKind::kConstant},
    {"uniform", InitializerKind::kUniform},
    {"normal", InitializerKind::kNormal},
    {"truncated_normal", InitializerKind::kTruncatedNormal},
};
constexpr std::pair<const char*, AdmissionSpec::Kind> kAdmissionNames[] = {
    {"min_count", AdmissionSpec::Kind::kMinCount},
    {"probability", AdmissionSpec::Kind::kProbability},
};
constexpr std::pair<const char*, EvictionSpec::Kind> kEvictionNames[] = {
    {"ttl", EvictionSpec::Kind::kTtl},
    {"lru", EvictionSpec::Kind::kLru},
    {"lfu", EvictionSpec::Kind::kLfu},
};
constexpr std::pair<const char*, NonFinite> kNonFiniteNames[] = {
    {"reject", NonFinite::kReject},
    {"raise", NonFinite::kRaise},
};

template <typename T>
T Get(const py::dict& values, const char* name) {
  return values[name].cast<T>();
}

template <typename T>
T GetOr(const py::dict& values, const char* name, T otherwise) {
  return values.contains(name) ? values[name].cast<T>() : otherwise;
}

OptimizerSpec ParseOptimizer(const py::dict& values) {
  const auto number = [&](const char* name) { return GetOr<double>(values, name, 0.0); };
  const auto single = [&](const char* name) { return static_cast<float>(number(name)); };
  return {.kind = ParseKind(kOptimizerNames, "optimizer", Get<std::string>(values, "kind")),
          .lr = single("lr"),
          .weight_decay = single("weight_decay"),
          .momentum = single("momentum"),
          .eps = single("eps"),
          .initial_accumulator = single("initial_accumulator"),
          .beta1 = number("beta1"),
          .beta2 = number("beta2"),
          .beta = single("beta"),
          .l1 = single("l1"),
          .l2 = single("l2")};
}

InitializerSpec ParseInitializer(const py::dict& values) {
  return {.kind = ParseKind(kInitializerNames, "initializer", Get<std::string>(values, "kind")),
          .a = Get<double>(values, "a"),
          .b = Get<double>(values, "b"),
          .seed = Get<uint64_t>(values, "seed")};
}

AdmissionSpec ParseAdmission(const py::object& value) {
  if (value.is_none()) return {};
  const auto values = value.cast<py::dict>();
  return {.kind = ParseKind(kAdmissionNames, "admission", Get<std::string>(values, "kind")),
          .min_count = GetOr<uint16_t>(values, "count", 0),
          .probability = GetOr<double>(values, "p", 1.0),
          .seed = GetOr<uint64_t>(values, "seed", 0)};
}

EvictionSpec ParseEviction(const py::object& value) {
  if (value.is_none()) return {};
  const auto values = value.cast<py::dict>();
  return {.kind = ParseKind(kEvictionNames, "eviction", Get<std::string>(values, "kind")),
          .ttl_s = GetOr<uint32_t>(values, "ttl_s", 0),
          .rows_max = GetOr<uint64_t>(values, "max_rows", 0)};
}

}  // namespace

const char* ValueTypeName(ValueType type) {
  return kValueTypeNames[static_cast<size_t>(type)].first;
}

Pooling ParsePooling(const std::string& name) { return ParseKind(kPoolingNames, "pooling", name); }

ValueType ParseValueType(const std::string& what, const std::string& name) {
  return ParseKind(kValueTypeNames, what, name);
}

TableSpec ParseTableSpec(const py::dict& values) {
  TableSpec spec;
  spec.name = Get<std::string>(values, "name");
  spec.salt = Murmur3Low64(spec.name.data(), spec.name.size(), 0);
  spec.dim = Get<uint32_t>(values, "dim");
  spec.value_type = ParseValueType("dtype", Get<std::string>(values, "dtype"));
  spec.optimizer = ParseOptimizer(values["optimizer"]);
  spec.initializer = ParseInitializer(values["initializer"]);
  spec.admission = ParseAdmission(values["admission"]);
  spec.eviction = ParseEviction(values["eviction"]);
  spec.non_finite = ParseKind(kNonFiniteNames, "nonfinite", Get<std::string>(values, "nonfinite"));
  return spec;
}

}  // namespace embery
