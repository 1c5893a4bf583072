// Python's view of csrc/serving: frozen tables, look-ups in many of them, and what writing one
// takes.
//
// Buffers are checked for size and type here; all work runs without the GIL.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "base/hash.h"
#include "bind/arrays.h"
#include "bind/bind.h"
#include "bind/table_spec.h"
#include "optim/row_codec.h"
#include "serving/frozen_lookup.h"

namespace py = pybind11;

namespace embery {
namespace {

using Table = std::shared_ptr<const FrozenTable>;

Table OpenTable(const std::string& path, Table base) {
  Result<Table> table = [&] {
    const py::gil_scoped_release release;
    return base == nullptr ? FrozenTable::Open(path)
                           : FrozenTable::OpenChanges(path, std::move(base));
  }();
  ThrowIfError(table.status());
  return std::move(table).value();
}

py::array_t<int64_t> PositionsOf(const FrozenTable& table, const py::array& keys) {
  const auto from = View<uint64_t>(keys, "keys");
  py::array_t<int64_t> positions(static_cast<py::ssize_t>(from.size()));
  int64_t* to = positions.mutable_data();
  const py::gil_scoped_release release;
  for (size_t i = 0; i < from.size(); ++i) to[i] = table.Position(from[i]);
  return positions;
}

class Lookup {
 public:
  Lookup(std::vector<Table> tables,
         const std::vector<std::tuple<uint32_t, std::string>>& features) {
    for (const auto& [table, pooling] : features) {
      features_.push_back({table, ParsePooling(pooling)});
      if (table < tables.size()) dims_.push_back(tables[table]->dim());
    }
    auto lookup = FrozenLookup::Make(std::move(tables), features_);
    ThrowIfError(lookup.status());
    lookup_ = std::move(lookup).value();
  }

  size_t columns() const { return lookup_->columns(); }

  size_t Pool(const py::array& keys, const py::array& lengths,
              const std::optional<py::array>& weights, size_t samples, const py::array& out) const {
    FrozenBatch batch{.keys = View<uint64_t>(keys, "keys"),
                      .lengths = View<int64_t>(lengths, "lengths"),
                      .weights = {},
                      .samples = samples};
    if (weights) batch.weights = View<float>(*weights, "weights");
    RequireRows(out, samples, columns(), "out");
    auto* to = MutableArrayData<float>(out, "out");
    const Result<size_t> found = [&] {
      const py::gil_scoped_release release;
      return lookup_->Pool(batch, to);
    }();
    ThrowIfError(found.status());
    return found.value();
  }

  size_t Gather(size_t feature, const py::array& keys, const py::array& out) const {
    if (feature >= dims_.size()) ThrowIfError(Status::InvalidArgument("no such feature"));
    const auto of_feature = View<uint64_t>(keys, "keys");
    RequireRows(out, of_feature.size(), dims_[feature], "out");
    auto* to = MutableArrayData<float>(out, "out");
    const py::gil_scoped_release release;
    return lookup_->Gather(feature, of_feature, to);
  }

 private:
  std::vector<FrozenFeature> features_;
  std::vector<uint32_t> dims_;
  std::unique_ptr<const FrozenLookup> lookup_;
};

py::array_t<uint8_t> EncodeRows(const py::array& rows, const std::string& dtype) {
  const ValueType type = ParseValueType("dtype", dtype);
  if (rows.ndim() != 2) ThrowIfError(Status::InvalidArgument("rows must have two dimensions"));
  const auto* from = ArrayData<float>(rows, "rows");
  const auto dim = static_cast<uint32_t>(rows.shape(1));
  const size_t row_bytes = ValueBytes(type, dim);
  const Result<const Kernels*> kernels = FindKernels("auto");
  ThrowIfError(kernels.status());
  py::array_t<uint8_t> encoded({rows.shape(0), static_cast<py::ssize_t>(row_bytes)});
  auto* to = reinterpret_cast<std::byte*>(encoded.mutable_data());
  const auto count = static_cast<size_t>(rows.shape(0));
  const py::gil_scoped_release release;
  for (size_t i = 0; i < count; ++i) {
    EncodeRow(*kernels.value(), type, from + i * dim, dim, to + i * row_bytes);
  }
  return encoded;
}

py::array_t<uint64_t> MixKeys(uint64_t salt, const py::array& keys) {
  const auto from = View<uint64_t>(keys, "keys");
  py::array_t<uint64_t> mixed(static_cast<py::ssize_t>(from.size()));
  uint64_t* to = mixed.mutable_data();
  const py::gil_scoped_release release;
  for (size_t i = 0; i < from.size(); ++i) to[i] = MixKey(salt, from[i]).bits;
  return mixed;
}

}  // namespace

void BindFrozen(py::module_& module) {
  py::class_<FrozenTable, std::shared_ptr<FrozenTable>>(module, "FrozenTable")
      .def(py::init([](const std::string& path, std::shared_ptr<FrozenTable> base) {
             return std::const_pointer_cast<FrozenTable>(OpenTable(path, std::move(base)));
           }),
           py::arg("path"), py::arg("base") = nullptr)
      .def("positions", &PositionsOf, py::arg("keys"))
      .def_property_readonly("rows", &FrozenTable::rows)
      .def_property_readonly("dim", &FrozenTable::dim)
      .def_property_readonly("salt", &FrozenTable::salt)
      .def_property_readonly(
          "dtype", [](const FrozenTable& table) { return ValueTypeName(table.value_type()); });
  py::class_<Lookup>(module, "FrozenLookup")
      .def(py::init([](const std::vector<std::shared_ptr<FrozenTable>>& tables,
                       const std::vector<std::tuple<uint32_t, std::string>>& features) {
             return Lookup({tables.begin(), tables.end()}, features);
           }),
           py::arg("tables"), py::arg("features"))
      .def_property_readonly("columns", &Lookup::columns)
      .def("pool", &Lookup::Pool, py::arg("keys"), py::arg("lengths"), py::arg("weights"),
           py::arg("samples"), py::arg("out"))
      .def("gather", &Lookup::Gather, py::arg("feature"), py::arg("keys"), py::arg("out"));
  module.def("encode_rows", &EncodeRows, py::arg("rows"), py::arg("dtype"),
             "Rows as a table of that dtype stores them, rounded to nearest.");
  module.def("mix_keys", &MixKeys, py::arg("salt"), py::arg("keys"),
             "The mixed hashes of keys; the top 12 bits are the slot.");
}

}  // namespace embery
