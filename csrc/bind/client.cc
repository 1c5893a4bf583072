// The Python face of the client of the servers.
#include "client/client.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <chrono>
#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "bind/arrays.h"
#include "bind/bind.h"
#include "bind/call_connection.h"
#include "bind/callable.h"
#include "bind/deadline.h"
#include "bind/table_spec.h"
#include "transport/connectors.h"
#include "transport/rdma_connection.h"

namespace py = pybind11;

namespace embery {
namespace {

using Arrays = std::vector<py::array>;

constexpr int kThreadsMax = 1024;
constexpr uint64_t kResidualRowsMax = uint64_t{1} << 31;

std::unique_ptr<Client> MakeClient(uint64_t number, int threads) {
  const Result<const Kernels*> kernels = FindKernels("auto");
  ThrowIfError(kernels.status());
  if (threads < 1 || threads > kThreadsMax) {
    ThrowIfError(Status::InvalidArgument("Client: threads must be 1 to " +
                                         std::to_string(kThreadsMax) + ", got " +
                                         std::to_string(threads)));
  }
  return std::make_unique<Client>(number, *kernels.value(), threads);
}

// The arrays of one call, checked against each other.
class CallArrays {
 public:
  CallArrays(const std::vector<uint64_t>& salts, const std::vector<uint32_t>& dims,
             const Arrays& keys) {
    if (salts.size() != dims.size() || salts.size() != keys.size()) {
      ThrowIfError(Status::InvalidArgument(
          "salts, dims and keys must be as many: got " + std::to_string(salts.size()) + ", " +
          std::to_string(dims.size()) + " and " + std::to_string(keys.size())));
    }
    for (size_t t = 0; t < salts.size(); ++t) {
      if (dims[t] == 0 || dims[t] > kWireDimMax) {
        ThrowIfError(Status::InvalidArgument("dims must be 1 to " + std::to_string(kWireDimMax) +
                                             ", got " + std::to_string(dims[t])));
      }
      const auto count = static_cast<size_t>(keys[t].size());
      if (count >= UINT32_MAX) ThrowIfError(Status::InvalidArgument("too many keys in a call"));
      tables_.push_back({salts[t], dims[t], {ArrayData<uint64_t>(keys[t], "keys"), count}});
    }
  }

  std::span<const TableKeys> tables() const { return tables_; }

  // Arrays of (keys, dim).
  std::vector<const float*> Rows(const Arrays& rows, const char* name) const {
    RequireOneATable(rows, name);
    std::vector<const float*> data;
    for (size_t t = 0; t < tables_.size(); ++t) {
      RequireRows(rows[t], tables_[t].keys.size(), tables_[t].dim, name);
      data.push_back(ArrayData<float>(rows[t], name));
    }
    return data;
  }

  std::vector<float*> MutableRows(const Arrays& rows, const char* name) const {
    Rows(rows, name);
    std::vector<float*> data;
    for (const py::array& of_table : rows) data.push_back(MutableArrayData<float>(of_table, name));
    return data;
  }

  // Arrays of (keys,); none of them if `flags` is absent.
  std::vector<uint8_t*> Flags(const std::optional<Arrays>& flags, const char* name) const {
    std::vector<uint8_t*> data;
    if (!flags.has_value()) return data;
    RequireOneATable(*flags, name);
    for (size_t t = 0; t < tables_.size(); ++t) {
      if (static_cast<size_t>((*flags)[t].size()) != tables_[t].keys.size()) {
        ThrowIfError(Status::InvalidArgument(std::string(name) + " must be as long as keys"));
      }
      data.push_back(MutableArrayData<uint8_t>((*flags)[t], name));
    }
    return data;
  }

 private:
  void RequireOneATable(const Arrays& arrays, const char* name) const {
    if (arrays.size() == tables_.size()) return;
    ThrowIfError(Status::InvalidArgument(std::string(name) + ": one array a table is needed, got " +
                                         std::to_string(arrays.size()) + " for " +
                                         std::to_string(tables_.size())));
  }

  std::vector<TableKeys> tables_;
};

ReadMode ParseMode(const std::string& mode) {
  if (mode == "train") return ReadMode::kTrain;
  if (mode == "eval") return ReadMode::kEval;
  if (mode == "peek") return ReadMode::kPeek;
  Throw(Status::InvalidArgument("mode must be 'train', 'eval' or 'peek', got '" + mode + "'"));
}

size_t Pull(Client& client, const std::vector<uint64_t>& salts, const std::vector<uint32_t>& dims,
            const Arrays& keys, const Arrays& out, const std::optional<Arrays>& absent,
            const std::string& mode, uint32_t now_s, double timeout_s,
            const std::optional<Arrays>& refused) {
  const Deadline deadline = DeadlineAfter(timeout_s);
  const CallArrays arrays(salts, dims, keys);
  const std::vector<float*> rows = arrays.MutableRows(out, "out");
  const std::vector<uint8_t*> absent_flags = arrays.Flags(absent, "absent");
  const std::vector<uint8_t*> refused_flags = arrays.Flags(refused, "refused");
  const ReadMode read_mode = ParseMode(mode);
  if ((read_mode == ReadMode::kPeek) != absent.has_value()) {
    ThrowIfError(Status::InvalidArgument("absent belongs to the mode 'peek', and to no other"));
  }
  const PullCall call{arrays.tables(), rows,          absent_flags, read_mode,
                      now_s,           refused_flags, deadline};
  const Result<size_t> result = [&] {
    const py::gil_scoped_release release;
    return client.Pull(call);
  }();
  ThrowIfError(result.status());
  return result.value();
}

size_t Push(Client& client, const std::vector<uint64_t>& salts, const std::vector<uint32_t>& dims,
            const Arrays& keys, const Arrays& grads, uint64_t sequence, uint64_t round,
            uint32_t rank, uint32_t world, uint32_t now_s, double timeout_s,
            const std::optional<Arrays>& refused, std::optional<uint64_t> as) {
  const Deadline deadline = DeadlineAfter(timeout_s);
  if (world == 0 || world > kWorldMax || rank >= world) {
    ThrowIfError(Status::InvalidArgument("push: rank must be below world, and world 1 to " +
                                         std::to_string(kWorldMax) + "; got " +
                                         std::to_string(rank) + " of " + std::to_string(world)));
  }
  const CallArrays arrays(salts, dims, keys);
  const std::vector<const float*> rows = arrays.Rows(grads, "grads");
  const std::vector<uint8_t*> refused_flags = arrays.Flags(refused, "refused");
  const PushCall call{
      arrays.tables(), rows,    as.value_or(client.number()), sequence, round, rank, world, now_s,
      refused_flags,   deadline};
  const Result<size_t> result = [&] {
    const py::gil_scoped_release release;
    return client.Push(call);
  }();
  ThrowIfError(result.status());
  return result.value();
}

void SetWire(Client& client, uint64_t salt, uint32_t dim, const std::string& rows,
             const std::string& grads, uint64_t residual_rows_max) {
  if (dim == 0 || dim > kWireDimMax || residual_rows_max > kResidualRowsMax) {
    ThrowIfError(Status::InvalidArgument(
        "set_wire: dim must be 1 to " + std::to_string(kWireDimMax) +
        " and residual_rows_max at most " + std::to_string(kResidualRowsMax) + ", got " +
        std::to_string(dim) + " and " + std::to_string(residual_rows_max)));
  }
  client.SetWire(salt, {dim, ParseValueType("encoding of rows", rows),
                        ParseValueType("encoding of gradients", grads), residual_rows_max});
}

// The keys, their residuals and how many of them are older; None if the table keeps none.
py::object ExportResiduals(Client& client, uint64_t salt) {
  const std::shared_ptr<Residuals> residuals = client.residuals(salt);
  if (residuals == nullptr) return py::none();
  Residuals::Kept kept = [&] {
    const py::gil_scoped_release release;
    return residuals->Export();
  }();
  const auto count = static_cast<py::ssize_t>(kept.keys.size());
  const auto dim = static_cast<py::ssize_t>(residuals->dim());
  return py::make_tuple(ToArray(std::move(kept.keys)), ToArray(std::move(kept.rows), {count, dim}),
                        kept.older);
}

bool ImportResiduals(Client& client, uint64_t salt, const py::array& keys, const py::array& rows,
                     size_t older) {
  const std::shared_ptr<Residuals> residuals = client.residuals(salt);
  if (residuals == nullptr) return false;
  const std::span<const uint64_t> of_keys = View<uint64_t>(keys, "keys");
  RequireRows(rows, of_keys.size(), residuals->dim(), "rows");
  const auto* floats = ArrayData<float>(rows, "rows");
  if (older > of_keys.size()) {
    ThrowIfError(Status::InvalidArgument("older must be at most the number of keys, " +
                                         std::to_string(of_keys.size()) + ", got " +
                                         std::to_string(older)));
  }
  const py::gil_scoped_release release;
  residuals->Import(of_keys, floats, older);
  return true;
}

void ConnectTcp(Client& client, uint16_t server, const std::string& host, uint16_t port,
                const py::bytes& secret, double timeout_s, const std::optional<std::string>& bind) {
  const Deadline deadline = DeadlineAfter(timeout_s);
  TcpAddress address{server, host, port, bind.value_or("")};
  Status status;
  {
    const auto text = secret.cast<std::string>();
    const py::gil_scoped_release release;
    status = client.Connect(server, MakeTcpConnector(address, client.number(), text), deadline);
  }
  ThrowIfError(status);
}

void ConnectShm(Client& client, uint16_t server, const std::string& socket, const py::bytes& secret,
                double timeout_s) {
  const Deadline deadline = DeadlineAfter(timeout_s);
  Status status;
  {
    const auto text = secret.cast<std::string>();
    const py::gil_scoped_release release;
    status =
        client.Connect(server, MakeShmConnector({server, socket}, client.number(), text), deadline);
  }
  ThrowIfError(status);
}

void ConnectRdma(Client& client, uint16_t server, const py::function& exchange,
                 const py::bytes& secret, double timeout_s, const std::string& device,
                 int gid_index) {
  const Deadline deadline = DeadlineAfter(timeout_s);
  const auto call = std::make_shared<const Callable>(exchange);
  const auto through_call = [call](std::span<const std::byte> address) {
    std::vector<std::byte> reply;
    const Status status = call->Call(address, [&](std::span<const std::byte> bytes) {
      reply.assign(bytes.begin(), bytes.end());
      return Status::Ok();
    });
    return status.ok() ? Result<std::vector<std::byte>>(std::move(reply)) : status;
  };
  Status status;
  {
    const auto text = secret.cast<std::string>();
    const py::gil_scoped_release release;
    auto connector =
        MakeRdmaConnector(server, {device, gid_index}, through_call, client.number(), text);
    status = connector.ok() ? client.Connect(server, std::move(connector).value(), deadline)
                            : connector.status();
  }
  ThrowIfError(status);
}

void ConnectCall(Client& client, uint16_t server, const py::function& call) {
  auto connector = MakeCallConnector(server, call);
  Status status;
  {
    const py::gil_scoped_release release;
    status = client.Connect(server, std::move(connector), Deadline::max());
  }
  ThrowIfError(status);
}

py::dict ClientStats(const Client::Stats& stats) {
  py::dict result;
  result["connections"] = stats.connections;
  result["connects"] = stats.connects;
  result["requests"] = stats.requests;
  result["keys"] = stats.keys;
  result["keys_sent"] = stats.keys_sent;
  result["bytes_sent"] = stats.bytes_sent;
  result["bytes_received"] = stats.bytes_received;
  result["refused"] = stats.refused;
  result["residual_rows"] = stats.residual_rows;
  result["residuals_dropped"] = stats.residuals_dropped;
  return result;
}

}  // namespace

void BindClient(py::module_& module) {
  py::class_<Client>(module, "Client", "A worker's side of the servers. Thread-safe.")
      .def(py::init(&MakeClient), py::arg("client"), py::arg("threads") = 1)
      .def("connect_tcp", &ConnectTcp, py::arg("server"), py::arg("host"), py::arg("port"),
           py::arg("secret"), py::arg("timeout_s"), py::arg("bind") = py::none())
      .def("connect_shm", &ConnectShm, py::arg("server"), py::arg("socket"), py::arg("secret"),
           py::arg("timeout_s"))
      .def("connect_rdma", &ConnectRdma, py::arg("server"), py::arg("exchange"), py::arg("secret"),
           py::arg("timeout_s"), py::arg("device") = "", py::arg("gid_index") = -1)
      .def("connect_call", &ConnectCall, py::arg("server"), py::arg("call"))
      .def("disconnect", &Client::Disconnect, py::arg("server"),
           py::call_guard<py::gil_scoped_release>())
      .def(
          "set_routing",
          [](Client& client, uint64_t version, const py::array& owners) {
            ThrowIfError(client.SetRouting(version, View<uint16_t>(owners, "owners")));
          },
          py::arg("version"), py::arg("owners"))
      .def("set_wire", &SetWire, py::arg("salt"), py::arg("dim"), py::arg("rows"), py::arg("grads"),
           py::arg("residual_rows_max"))
      .def("residuals", &ExportResiduals, py::arg("salt"))
      .def("set_residuals", &ImportResiduals, py::arg("salt"), py::arg("keys"), py::arg("rows"),
           py::arg("older"))
      .def("clear_residuals", &Client::ClearResiduals, py::call_guard<py::gil_scoped_release>())
      .def("pull", &Pull, py::arg("salts"), py::arg("dims"), py::arg("keys"), py::arg("out"),
           py::arg("absent"), py::arg("mode"), py::arg("now_s"), py::arg("timeout_s"),
           py::arg("refused") = py::none())
      .def("push", &Push, py::arg("salts"), py::arg("dims"), py::arg("keys"), py::arg("grads"),
           py::kw_only(), py::arg("sequence"), py::arg("round"), py::arg("rank"), py::arg("world"),
           py::arg("now_s"), py::arg("timeout_s"), py::arg("refused") = py::none(),
           py::arg("as_") = py::none())
      .def(
          "send_copy",
          [](Client& client, uint16_t server, const py::bytes& frame, double timeout_s) {
            const auto text = frame.cast<std::string_view>();
            const Deadline deadline = DeadlineAfter(timeout_s);
            const Result<uint32_t> refused = [&] {
              const py::gil_scoped_release release;
              return client.SendCopy(server, std::as_bytes(std::span<const char>(text)), deadline);
            }();
            ThrowIfError(refused.status());
            return refused.value();
          },
          py::arg("server"), py::arg("frame"), py::arg("timeout_s"))
      .def("stats", [](Client& client) {
        const Client::Stats stats = [&] {
          const py::gil_scoped_release release;
          return client.stats();
        }();
        return ClientStats(stats);
      });
}

}  // namespace embery
