// The Python face of the native store; embery/embedded.py gives it the public one.
#include "table/store.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "batch/murmur3.h"
#include "bind/arrays.h"
#include "bind/bind.h"
#include "bind/table_columns.h"
#include "bind/table_spec.h"

namespace py = pybind11;

namespace embery {
namespace {

using Arrays = std::vector<py::array>;

std::unique_ptr<Store> MakeStore(int threads, const std::string& simd) {
  const Result<const Kernels*> kernels = FindKernels(simd);
  ThrowIfError(kernels.status());
  return std::make_unique<Store>(threads, *kernels.value());
}

Table& GetTable(Store& store, TableId id) {
  Table* table = store.FindTable(id);
  if (table == nullptr) {
    Throw(Status(StatusCode::kTableNotFound, "no table with id " + std::to_string(id)));
  }
  return *table;
}

void CheckRows(const Table& table, const py::array& rows, size_t count, const char* name) {
  RequireRows(rows, count, table.spec().dim, "table '" + table.spec().name + "': " + name);
}

void CheckLengths(const std::vector<TableId>& tables, const Arrays& keys, const Arrays& values) {
  if (tables.size() == keys.size() && keys.size() == values.size()) return;
  ThrowIfError(Status::InvalidArgument(
      "tables, keys and rows must be as many: got " + std::to_string(tables.size()) + ", " +
      std::to_string(keys.size()) + " and " + std::to_string(values.size())));
}

std::vector<PullRequest> PullRequests(Store& store, const std::vector<TableId>& tables,
                                      const Arrays& keys, const Arrays& out) {
  CheckLengths(tables, keys, out);
  std::vector<PullRequest> requests;
  for (size_t i = 0; i < tables.size(); ++i) {
    const auto count = static_cast<size_t>(keys[i].size());
    CheckRows(GetTable(store, tables[i]), out[i], count, "out");
    requests.push_back({tables[i], ArrayData<uint64_t>(keys[i], "keys"), count,
                        RowsOut(MutableArrayData<float>(out[i], "out")), nullptr});
  }
  return requests;
}

void Pull(Store& store, const std::vector<TableId>& tables, const Arrays& keys, const Arrays& out,
          const std::string& mode, uint32_t now_s) {
  const auto requests = PullRequests(store, tables, keys, out);
  const PullMode pull_mode = mode == "train" ? PullMode::kTrain : PullMode::kEval;
  Status status;
  {
    const py::gil_scoped_release release;
    status = store.Pull(requests, pull_mode, now_s).status();
  }
  ThrowIfError(status);
}

void Peek(Store& store, const std::vector<TableId>& tables, const Arrays& keys, const Arrays& out,
          const Arrays& absent, uint32_t now_s) {
  auto requests = PullRequests(store, tables, keys, out);
  CheckLengths(tables, keys, absent);
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].absent = MutableArrayData<uint8_t>(absent[i], "absent");
    if (static_cast<size_t>(absent[i].size()) != requests[i].count) {
      ThrowIfError(Status::InvalidArgument("absent must be as long as keys"));
    }
    std::memset(requests[i].absent, 0, requests[i].count);
  }
  Status status;
  {
    const py::gil_scoped_release release;
    status = store.Pull(requests, PullMode::kPeek, now_s).status();
  }
  ThrowIfError(status);
}

void Push(Store& store, const std::vector<TableId>& tables, const Arrays& keys, const Arrays& grads,
          uint32_t now_s) {
  CheckLengths(tables, keys, grads);
  std::vector<PushRequest> requests;
  for (size_t i = 0; i < tables.size(); ++i) {
    const auto count = static_cast<size_t>(keys[i].size());
    CheckRows(GetTable(store, tables[i]), grads[i], count, "grads");
    requests.push_back({tables[i], ArrayData<uint64_t>(keys[i], "keys"), count,
                        ArrayData<float>(grads[i], "grads")});
  }
  Status status;
  {
    const py::gil_scoped_release release;
    status = store.Push(requests, now_s);
  }
  ThrowIfError(status);
}

py::dict Stats(Store& store, TableId id) {
  Table& table = GetTable(store, id);
  Table::Stats stats;
  {
    const py::gil_scoped_release release;
    stats = table.stats();
  }
  const Counters& counters = stats.counters;
  py::dict result;
  result["rows"] = stats.rows;
  result["bytes"] = stats.bytes;
  result["step"] = table.step();
  result["admitted"] = counters.admitted;
  result["rejected"] = counters.rejected;
  result["evicted"] = counters.evicted;
  result["deleted"] = counters.deleted;
  result["nonfinite"] = counters.non_finite;
  result["updates"] = counters.updates;
  result["candidates"] = stats.candidates;
  result["candidates_forgotten"] = stats.candidates_forgotten;
  result["tombstones"] = stats.tombstones;
  result["tombstones_lost"] = stats.tombstones_lost;
  return result;
}

size_t Evict(Store& store, TableId id, uint32_t now_s) {
  Table& table = GetTable(store, id);
  const py::gil_scoped_release release;
  return store.Evict(table, now_s);
}

uint64_t Deletions(Store& store, TableId id) {
  Table& table = GetTable(store, id);
  const py::gil_scoped_release release;
  return table.stats().counters.deleted;
}

py::array_t<uint16_t> SlotsOf(const std::string& table, const py::array& keys) {
  const uint64_t salt = Murmur3Low64(table.data(), table.size(), 0);
  const uint64_t* data = ArrayData<uint64_t>(keys, "keys");
  std::vector<uint16_t> slots(static_cast<size_t>(keys.size()));
  for (size_t i = 0; i < slots.size(); ++i) {
    slots[i] = static_cast<uint16_t>(SlotOf(MixKey(salt, data[i])));
  }
  return ToArray(std::move(slots));
}

// What checkpoints save and restore.
void BindRows(py::class_<Store>& bound) {
  bound
      .def(
          "read_rows",
          [](Store& store, TableId id, const py::array& keys) {
            return ReadRows(GetTable(store, id), keys);
          },
          py::arg("table"), py::arg("keys"))
      .def(
          "export_rows",
          [](Store& store, TableId id, uint32_t slot_begin, uint32_t slot_end) {
            return ExportRows(GetTable(store, id), slot_begin, slot_end);
          },
          py::arg("table"), py::arg("slot_begin"), py::arg("slot_end"))
      .def(
          "begin_cut",
          [](Store& store, size_t bytes_max) {
            Status status;
            {
              const py::gil_scoped_release release;
              status = store.BeginCut(bytes_max);
            }
            ThrowIfError(status);
          },
          py::arg("bytes_max"))
      .def("end_cut", &Store::EndCut, py::call_guard<py::gil_scoped_release>())
      .def(
          "export_cut_rows",
          [](Store& store, TableId id, uint32_t slot_begin, uint32_t slot_end,
             const py::object& since) {
            return ExportCutRows(GetTable(store, id), slot_begin, slot_end, since);
          },
          py::arg("table"), py::arg("slot_begin"), py::arg("slot_end"), py::arg("since"))
      .def(
          "export_cut_state",
          [](Store& store, TableId id, const py::object& since) {
            return ExportCutState(GetTable(store, id), since);
          },
          py::arg("table"), py::arg("since"))
      .def(
          "reserve_rows",
          [](Store& store, TableId id, uint32_t slot_begin, uint32_t slot_end, size_t rows) {
            ReserveRows(GetTable(store, id), slot_begin, slot_end, rows);
          },
          py::arg("table"), py::arg("slot_begin"), py::arg("slot_end"), py::arg("rows"))
      .def(
          "import_rows",
          [](Store& store, TableId id, const py::dict& rows) {
            ImportRows(GetTable(store, id), rows);
          },
          py::arg("table"), py::arg("rows"))
      .def(
          "export_state", [](Store& store, TableId id) { return ExportState(GetTable(store, id)); },
          py::arg("table"))
      .def(
          "import_state",
          [](Store& store, TableId id, const py::dict& state) {
            ImportState(GetTable(store, id), state);
          },
          py::arg("table"), py::arg("state"))
      .def(
          "clear_table", [](Store& store, TableId id) { GetTable(store, id).Clear(); },
          py::arg("table"))
      .def(
          "check_slots",
          [](Store& store, TableId id, uint32_t slot_begin, uint32_t slot_end, bool copies) {
            return CheckSlots(GetTable(store, id), {slot_begin, slot_end},
                              copies ? WhichRows::kCopied : WhichRows::kServed);
          },
          py::arg("table"), py::arg("slot_begin"), py::arg("slot_end"), py::arg("copies"));
}

}  // namespace

void BindStore(py::module_& module) {
  module.def("simd_targets", &SimdTargets, "SIMD targets that this processor runs, best first.");
  module.def("slots_of", &SlotsOf, py::arg("table"), py::arg("keys"),
             "Slot of each uint64 key in the table of that name.");
  py::class_<Store> bound(module, "Store", "Tables in this process. Thread-safe.");
  bound.def(py::init(&MakeStore), py::arg("threads"), py::arg("simd"))
      .def_property_readonly("threads", &Store::threads)
      .def_property_readonly("simd", [](const Store& store) { return store.kernels().name; })
      .def(
          "create_table",
          [](Store& store, const py::dict& spec) {
            const Result<TableId> id = store.CreateTable(ParseTableSpec(spec));
            ThrowIfError(id.status());
            return id.value();
          },
          py::arg("spec"))
      .def("pull", &Pull, py::arg("tables"), py::arg("keys"), py::arg("out"), py::arg("mode"),
           py::arg("now_s"))
      .def("peek", &Peek, py::arg("tables"), py::arg("keys"), py::arg("out"), py::arg("absent"),
           py::arg("now_s"))
      .def("push", &Push, py::arg("tables"), py::arg("keys"), py::arg("grads"), py::arg("now_s"))
      .def("freeze", &Store::Freeze, py::call_guard<py::gil_scoped_release>())
      .def("thaw", &Store::Thaw)
      .def("evict", &Evict, py::arg("table"), py::arg("now_s"))
      .def("deletions", &Deletions, py::arg("table"))
      .def("stats", &Stats, py::arg("table"))
      .def(
          "row_layout",
          [](Store& store, TableId id) {
            const RecordLayout& layout = GetTable(store, id).layout();
            return py::make_tuple(layout.value_bytes, layout.state_floats);
          },
          py::arg("table"));
  BindRows(bound);
}

}  // namespace embery
