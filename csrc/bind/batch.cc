// Python's view of csrc/batch: the planner, plans, pooling, and the rows to read again.
//
// Buffers are checked for size here, once, so that the core may trust them; all work runs without
// the GIL.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "batch/plan.h"
#include "batch/pooling.h"
#include "batch/stale_rows.h"
#include "bind/arrays.h"
#include "bind/bind.h"
#include "bind/table_spec.h"

namespace py = pybind11;

namespace embery {
namespace {

using Arrays = std::vector<py::array>;

void RequireSize(const char* name, const py::array& array, size_t expected) {
  if (static_cast<size_t>(array.size()) == expected) return;
  ThrowIfError(Status::InvalidArgument(std::string(name) + " must have " +
                                       std::to_string(expected) + " elements, got " +
                                       std::to_string(array.size())));
}

template <typename T>
const T* Read(const py::array& array, const char* name, size_t size) {
  RequireSize(name, array, size);
  return ArrayData<T>(array, name);
}

float* Write(const py::array& array, const char* name, size_t size) {
  RequireSize(name, array, size);
  return MutableArrayData<float>(array, name);
}

// An array over memory that `owner` keeps alive.
template <typename T>
py::array Borrow(const T* data, const std::vector<size_t>& shape, const py::handle& owner) {
  return py::array(py::dtype::of<T>(), shape, data, owner);
}

// Read-only arrays of the keys of each table, over the memory of `owner`.
py::list KeyLists(const std::vector<std::vector<uint64_t>>& keys, const py::handle& owner) {
  py::list lists;
  for (const auto& of_table : keys) {
    const py::array array = Borrow(of_table.data(), {of_table.size()}, owner);
    py::detail::array_proxy(array.ptr())->flags &= ~py::detail::npy_api::NPY_ARRAY_WRITEABLE_;
    lists.append(array);
  }
  return lists;
}

// A plan in Python's hands.
struct Plan {
  std::shared_ptr<const BatchPlan> plan;

  size_t RowCount() const {
    size_t count = 0;
    for (const auto& keys : plan->keys) count += keys.size();
    return count;
  }
};

// A flat buffer of rows cut into one 2-D array a table.
py::list SplitRows(const BatchPlan& plan, const std::vector<std::vector<uint64_t>>& keys,
                   const py::array& flat) {
  const float* at = ArrayData<float>(flat, "rows");
  py::list tables;
  for (size_t t = 0; t < keys.size(); ++t) {
    const size_t dim = plan.layout->table_dims[t];
    tables.append(Borrow(at, {keys[t].size(), dim}, flat));
    at += keys[t].size() * dim;
  }
  return tables;
}

py::list SplitFlags(const Plan& plan, const py::array& flags) {
  const uint8_t* at = Read<uint8_t>(flags, "flags", plan.RowCount());
  py::list tables;
  for (const auto& keys : plan.plan->keys) {
    tables.append(Borrow(at, {keys.size()}, flags));
    at += keys.size();
  }
  return tables;
}

// Where the values of each feature lie in the batch: (begin, end) each.
py::list ValueRanges(const Plan& plan) {
  py::list ranges;
  for (size_t f = 0; f < plan.plan->layout->features.size(); ++f) {
    const size_t begin = plan.plan->batch_begin[f];
    ranges.append(py::make_tuple(begin, begin + plan.plan->ValueEnd(f) - plan.plan->ValueBegin(f)));
  }
  return ranges;
}

class BatchPlanner {
 public:
  using Feature = std::tuple<std::string, uint32_t, std::string>;

  BatchPlanner(std::vector<uint32_t> dims, const std::vector<Feature>& features, int threads)
      : pool_(threads) {
    auto layout = std::make_shared<BatchLayout>();
    layout->table_dims = std::move(dims);
    for (const auto& [name, table, pooling] : features) {
      layout->features.push_back({name, table, ParsePooling(pooling)});
    }
    ThrowIfError(layout->Finish());
    layout_ = std::move(layout);
    planner_ = std::make_unique<Planner>(layout_, &pool_);
  }

  Plan MakePlan(const py::array& values, const py::array& lengths,
                const std::optional<py::array>& weights, const std::vector<uint32_t>& positions,
                size_t samples) {
    BatchView batch{.values = View<uint64_t>(values, "values"),
                    .lengths = View<int64_t>(lengths, "lengths"),
                    .weights = {},
                    .positions = positions,
                    .samples = samples};
    if (weights) {
      RequireSize("weights", *weights, batch.values.size());
      batch.weights = View<float>(*weights, "weights");
    }
    RequireFit(batch);
    Result<std::shared_ptr<const BatchPlan>> plan = [&] {
      const py::gil_scoped_release release;
      return planner_->Plan(batch);
    }();
    ThrowIfError(plan.status());
    return {std::move(plan).value()};
  }

  void Pool(const Plan& plan, const py::array& rows, const py::array& out) {
    const float* from = Read<float>(rows, "rows", plan.plan->FloatCount());
    float* to = Write(out, "out", PooledSize(plan));
    const py::gil_scoped_release release;
    PoolForward(*plan.plan, from, to, pool_);
  }

  void PoolGradient(const Plan& plan, const py::array& grad, const py::array& grad_rows) {
    const PooledGradient from = ReadPooled(plan, grad);
    float* to = Write(grad_rows, "grad_rows", plan.plan->FloatCount());
    const py::gil_scoped_release release;
    PoolBackward(*plan.plan, from, to, pool_);
  }

  void WeightsGradient(const Plan& plan, const py::array& rows, const py::array& grad,
                       const py::array& grad_weights) {
    const float* read = Read<float>(rows, "rows", plan.plan->FloatCount());
    const PooledGradient from = ReadPooled(plan, grad);
    float* to = Write(grad_weights, "grad_weights", plan.plan->batch_values);
    const py::gil_scoped_release release;
    WeightsBackward(*plan.plan, read, from, to, pool_);
  }

  void Gather(const Plan& plan, const py::array& rows, const Arrays& out) {
    const float* from = Read<float>(rows, "rows", plan.plan->FloatCount());
    RequireSequences(plan, out);
    std::vector<float*> to;
    for (const py::array& array : out) to.push_back(MutableArrayData<float>(array, "out"));
    const py::gil_scoped_release release;
    GatherForward(*plan.plan, from, to, pool_);
  }

  void GatherGradient(const Plan& plan, const Arrays& grads, const py::array& grad_rows) {
    RequireSequences(plan, grads);
    std::vector<const float*> from;
    for (const py::array& array : grads) from.push_back(ArrayData<float>(array, "grads"));
    float* to = Write(grad_rows, "grad_rows", plan.plan->FloatCount());
    const py::gil_scoped_release release;
    GatherBackward(*plan.plan, from, to, pool_);
  }

 private:
  size_t PooledSize(const Plan& plan) const { return plan.plan->samples * layout_->columns; }

  // The gradient of pooled vectors: the columns of a row lie side by side, the rows may lie apart.
  PooledGradient ReadPooled(const Plan& plan, const py::array& grad) const {
    constexpr auto kFloatBytes = static_cast<py::ssize_t>(sizeof(float));
    const auto samples = static_cast<py::ssize_t>(plan.plan->samples);
    const auto columns = static_cast<py::ssize_t>(layout_->columns);
    const bool fits = py::isinstance<py::array_t<float>>(grad) && grad.ndim() == 2 &&
                      grad.shape(0) == samples && grad.shape(1) == columns &&
                      (samples == 0 || (grad.strides(1) == kFloatBytes &&
                                        grad.strides(0) >= columns * kFloatBytes &&
                                        grad.strides(0) % kFloatBytes == 0));
    if (!fits) {
      ThrowIfError(Status::InvalidArgument(
          "grad must be float32 of shape (" + std::to_string(samples) + ", " +
          std::to_string(columns) + ") with contiguous rows, got shape " +
          py::str(grad.attr("shape")).cast<std::string>()));
    }
    const py::ssize_t stride = samples == 0 ? columns : grad.strides(0) / kFloatBytes;
    return {static_cast<const float*>(grad.data()), static_cast<size_t>(stride)};
  }

  void RequireFit(const BatchView& batch) const {
    if (batch.positions.size() != layout_->features.size()) {
      ThrowIfError(Status::InvalidArgument("one position a feature is needed"));
    }
    for (uint32_t position : batch.positions) {
      if ((position + size_t{1}) * batch.samples > batch.lengths.size()) {
        ThrowIfError(Status::InvalidArgument("a feature's lengths lie beyond those of the batch"));
      }
    }
  }

  void RequireSequences(const Plan& plan, const Arrays& arrays) const {
    if (arrays.size() != layout_->features.size()) {
      ThrowIfError(Status::InvalidArgument("one array a feature is needed"));
    }
    for (size_t f = 0; f < arrays.size(); ++f) {
      const size_t values = plan.plan->ValueEnd(f) - plan.plan->ValueBegin(f);
      RequireSize("a feature's array", arrays[f], values * layout_->DimOf(f));
    }
  }

  ThreadPool pool_;
  std::shared_ptr<const BatchLayout> layout_;
  std::unique_ptr<Planner> planner_;
};

// Rows of a plan that were read too early.
struct StaleRows {
  std::shared_ptr<const BatchPlan> plan;
  RowSubset subset;
};

void RecordPush(RecentPushes& pushes, const std::vector<uint64_t>& salts, const Arrays& keys,
                uint64_t number) {
  if (salts.size() != keys.size()) {
    ThrowIfError(Status::InvalidArgument("one salt a list of keys is needed"));
  }
  std::vector<std::span<const uint64_t>> views;
  for (const py::array& of_table : keys) views.push_back(View<uint64_t>(of_table, "keys"));
  const py::gil_scoped_release release;
  for (size_t i = 0; i < views.size(); ++i) pushes.Record(salts[i], views[i], number);
}

StaleRows FindStaleRows(const RecentPushes& pushes, const Plan& plan, const py::array& absent,
                        const std::vector<uint64_t>& salts, const std::vector<uint8_t>& all_stale,
                        uint64_t since) {
  const size_t tables = plan.plan->keys.size();
  if (salts.size() != tables || all_stale.size() != tables) {
    ThrowIfError(Status::InvalidArgument("one salt and one flag a table are needed"));
  }
  const size_t rows = plan.RowCount();
  const ReadAhead read{{Read<uint8_t>(absent, "absent", rows), rows}, salts, all_stale, since};
  const py::gil_scoped_release release;
  return {plan.plan, SelectStale(*plan.plan, read, pushes)};
}

void Patch(const StaleRows& stale, const py::array& fresh, const py::array& rows) {
  const float* from = Read<float>(fresh, "fresh", stale.subset.floats);
  float* to = Write(rows, "rows", stale.plan->FloatCount());
  const py::gil_scoped_release release;
  CopyRows(*stale.plan, stale.subset, from, to);
}

void BindPlanner(py::module_& module) {
  py::class_<Plan>(module, "BatchPlan")
      .def_property_readonly("keys",
                             [](const py::object& self) {
                               return KeyLists(self.cast<const Plan&>().plan->keys, self);
                             })
      .def_property_readonly("samples", [](const Plan& plan) { return plan.plan->samples; })
      .def_property_readonly("row_count", &Plan::RowCount)
      .def_property_readonly("float_count",
                             [](const Plan& plan) { return plan.plan->FloatCount(); })
      .def_property_readonly("batch_values",
                             [](const Plan& plan) { return plan.plan->batch_values; })
      .def_property_readonly("value_ranges", &ValueRanges)
      .def(
          "split",
          [](const Plan& plan, const py::array& flat) {
            RequireSize("rows", flat, plan.plan->FloatCount());
            return SplitRows(*plan.plan, plan.plan->keys, flat);
          },
          py::arg("rows"))
      .def("split_flags", &SplitFlags, py::arg("flags"));

  py::class_<BatchPlanner>(module, "BatchPlanner")
      .def(py::init<std::vector<uint32_t>, const std::vector<BatchPlanner::Feature>&, int>(),
           py::arg("dims"), py::arg("features"), py::arg("threads"))
      .def("plan", &BatchPlanner::MakePlan, py::arg("values"), py::arg("lengths"),
           py::arg("weights"), py::arg("positions"), py::arg("samples"))
      .def("pool", &BatchPlanner::Pool, py::arg("plan"), py::arg("rows"), py::arg("out"))
      .def("pool_backward", &BatchPlanner::PoolGradient, py::arg("plan"), py::arg("grad"),
           py::arg("grad_rows"))
      .def("weights_backward", &BatchPlanner::WeightsGradient, py::arg("plan"), py::arg("rows"),
           py::arg("grad"), py::arg("grad_weights"))
      .def("gather", &BatchPlanner::Gather, py::arg("plan"), py::arg("rows"), py::arg("out"))
      .def("gather_backward", &BatchPlanner::GatherGradient, py::arg("plan"), py::arg("grads"),
           py::arg("grad_rows"));
}

void BindStaleRows(py::module_& module) {
  py::class_<RecentPushes>(module, "RecentPushes")
      .def(py::init<int>(), py::arg("stamps_log2"))
      .def("record", &RecordPush, py::arg("salts"), py::arg("keys"), py::arg("number"))
      .def("find_stale", &FindStaleRows, py::arg("plan"), py::arg("absent"), py::arg("salts"),
           py::arg("all_stale"), py::arg("since"));

  py::class_<StaleRows>(module, "StaleRows")
      .def_property_readonly("keys",
                             [](const py::object& self) {
                               return KeyLists(self.cast<const StaleRows&>().subset.keys, self);
                             })
      .def_property_readonly("float_count",
                             [](const StaleRows& stale) { return stale.subset.floats; })
      .def(
          "split",
          [](const StaleRows& stale, const py::array& flat) {
            RequireSize("rows", flat, stale.subset.floats);
            return SplitRows(*stale.plan, stale.subset.keys, flat);
          },
          py::arg("rows"))
      .def("patch", &Patch, py::arg("fresh"), py::arg("rows"));
}

}  // namespace

void BindBatch(py::module_& module) {
  BindPlanner(module);
  BindStaleRows(module);
}

}  // namespace embery
