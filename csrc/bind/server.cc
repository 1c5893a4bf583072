// The Python face of a server: life cycle and administration; requests never pass through Python,
// but for those that another channel carries.
#include "server/server.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <chrono>
#include <cstring>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "bind/arrays.h"
#include "bind/bind.h"
#include "bind/deadline.h"
#include "wire/messages.h"

namespace py = pybind11;

namespace embery {
namespace {

constexpr int kThreadsMax = 1024;

std::unique_ptr<Server> MakeServer(Store& store, ServerNumber number, const py::bytes& secret,
                                   int threads) {
  const auto text = secret.cast<std::string>();
  if (text.size() < kSecretBytesMin || text.size() > kSecretBytesMax) {
    ThrowIfError(Status::InvalidArgument(
        "Server: secret must have " + std::to_string(kSecretBytesMin) + " to " +
        std::to_string(kSecretBytesMax) + " bytes, got " + std::to_string(text.size())));
  }
  if (threads < 1 || threads > kThreadsMax) {
    ThrowIfError(Status::InvalidArgument("Server: threads must be 1 to " +
                                         std::to_string(kThreadsMax) + ", got " +
                                         std::to_string(threads)));
  }
  return std::make_unique<Server>(store, number, text, threads);
}

uint16_t ListenTcp(Server& server, const std::string& host, uint16_t port) {
  const Result<uint16_t> bound = [&] {
    const py::gil_scoped_release release;
    return server.ListenTcp(host, port);
  }();
  ThrowIfError(bound.status());
  return bound.value();
}

std::string ListenShm(Server& server) {
  Result<std::string> name = [&] {
    const py::gil_scoped_release release;
    return server.ListenShm();
  }();
  ThrowIfError(name.status());
  return std::move(name).value();
}

std::string ListenRdma(Server& server, const std::string& device, int gid_index) {
  Result<std::string> name = [&] {
    const py::gil_scoped_release release;
    return server.ListenRdma({device, gid_index});
  }();
  ThrowIfError(name.status());
  return std::move(name).value();
}

py::bytes AcceptRdma(Server& server, const py::bytes& address) {
  const auto text = address.cast<std::string_view>();
  const Result<std::vector<std::byte>> reply = [&] {
    const py::gil_scoped_release release;
    return server.AcceptRdma(std::as_bytes(std::span<const char>(text)));
  }();
  ThrowIfError(reply.status());
  return {reinterpret_cast<const char*>(reply.value().data()), reply.value().size()};
}

void SetServerRouting(Server& server, uint64_t version, const py::array& owners,
                      const py::array& backups, const py::array& changed_at) {
  const auto owners_view = View<uint16_t>(owners, "owners");
  const auto backups_view = View<uint16_t>(backups, "backups");
  const auto changed_view = View<uint64_t>(changed_at, "changed_at");
  Status status;
  {
    const py::gil_scoped_release release;
    status = server.service().SetRouting(version, owners_view, backups_view, changed_view);
  }
  ThrowIfError(status);
}

py::bytes HandleFrame(Server& server, const py::bytes& frame) {
  const auto text = frame.cast<std::string_view>();
  const Result<Reply> reply = [&] {
    const py::gil_scoped_release release;
    return server.Handle(std::as_bytes(std::span<const char>(text)));
  }();
  ThrowIfError(reply.status());
  const auto& [head, rows] = reply.value();
  const auto bytes = static_cast<py::ssize_t>(head.size() + rows.size());
  auto result = py::reinterpret_steal<py::bytes>(PyBytes_FromStringAndSize(nullptr, bytes));
  if (!result) throw py::error_already_set();
  char* out = PyBytes_AS_STRING(result.ptr());
  std::memcpy(out, head.data(), head.size());
  if (rows.size() > 0) std::memcpy(out + head.size(), rows.data(), rows.size());
  return result;
}

void RequireSlots(uint32_t begin, uint32_t end) {
  if (begin < end && end <= kSlotCount) return;
  ThrowIfError(Status::InvalidArgument("slots must be a range within [0, " +
                                       std::to_string(kSlotCount) + "), got [" +
                                       std::to_string(begin) + ", " + std::to_string(end) + ")"));
}

// ---- copies on other servers --------------------------------------------------------------------

py::tuple CopySlots(Server& server, ServerNumber target, uint32_t slot_begin, uint32_t slot_end,
                    double timeout_s) {
  RequireSlots(slot_begin, slot_end);
  const Result<Followers::Copied> copied = [&] {
    const py::gil_scoped_release release;
    return server.service().followers().Copy(target, slot_begin, slot_end,
                                             DeadlineAfter(timeout_s));
  }();
  ThrowIfError(copied.status());
  return py::make_tuple(copied.value().rows, copied.value().bytes);
}

void FlushCopies(Server& server, double timeout_s) {
  Status status;
  {
    const py::gil_scoped_release release;
    status = server.service().followers().FlushAll(DeadlineAfter(timeout_s));
  }
  ThrowIfError(status);
}

// (number, body), the body empty if there is nothing to tell; None if the target does not follow.
py::object NextCopyFrame(Server& server, ServerNumber target, double timeout_s) {
  const std::optional<Followers::Frame> frame = [&] {
    const py::gil_scoped_release release;
    return server.service().followers().Next(target, DeadlineAfter(timeout_s));
  }();
  if (!frame.has_value()) return py::none();
  return py::make_tuple(frame->number, py::bytes(reinterpret_cast<const char*>(frame->body.data()),
                                                 frame->body.size()));
}

py::dict CopyLag(Server& server) {
  py::dict result;
  for (const ServerNumber target : server.service().followers().targets()) {
    const Followers::Lag lag = server.service().followers().LagOf(target);
    py::dict of_target;
    of_target["slots"] = lag.slots;
    of_target["complete_slots"] = lag.complete_slots;
    of_target["frames"] = lag.frames;
    of_target["bytes"] = lag.bytes;
    result[py::int_(target)] = of_target;
  }
  return result;
}

py::array CopiedSlots(Server& server) {
  std::vector<uint16_t> slots;
  server.service().copies().slots().ForEach(
      [&](uint32_t slot) { slots.push_back(static_cast<uint16_t>(slot)); });
  return ToArray(std::move(slots));
}

void BindCopies(py::class_<Server>& bound) {
  bound
      .def("copy_slots", &CopySlots, py::arg("target"), py::arg("slot_begin"), py::arg("slot_end"),
           py::arg("timeout_s"))
      .def("flush_copies", &FlushCopies, py::arg("timeout_s"))
      .def("next_copy_frame", &NextCopyFrame, py::arg("target"), py::arg("timeout_s"))
      .def(
          "acknowledge_copy",
          [](Server& server, ServerNumber target, uint64_t frame) {
            const py::gil_scoped_release release;
            server.service().followers().Acknowledge(target, frame);
          },
          py::arg("target"), py::arg("frame"))
      .def(
          "refuse_copy",
          [](Server& server, ServerNumber target) {
            const py::gil_scoped_release release;
            server.service().followers().Refused(target);
          },
          py::arg("target"))
      .def("copy_lag", &CopyLag)
      .def("copied_slots", &CopiedSlots)
      .def(
          "evict",
          [](Server& server, TableId table, uint32_t now_s) {
            const py::gil_scoped_release release;
            return server.service().Evict(table, now_s);
          },
          py::arg("table"), py::arg("now_s"))
      .def("note_change", [](Server& server) {
        const py::gil_scoped_release release;
        server.service().NoteChange();
      });
}

struct TrafficField {
  const char* name;
  std::atomic<uint64_t> ListenerStats::*counter;
};
constexpr TrafficField kTrafficFields[] = {
    {"connections", &ListenerStats::connections},
    {"accepted", &ListenerStats::accepted},
    {"bytes_in", &ListenerStats::bytes_in},
    {"bytes_out", &ListenerStats::bytes_out},
    {"malformed", &ListenerStats::malformed},
    {"unauthenticated", &ListenerStats::unauthenticated},
};

py::dict ServerTraffic(Server& server) {
  py::dict result;
  for (const auto& [transport, traffic] : server.Traffic()) {
    py::dict counters;
    for (const auto& [name, counter] : kTrafficFields) counters[name] = (traffic->*counter).load();
    result[py::str(transport)] = counters;
  }
  return result;
}

py::dict ServerStats(Server& server) {
  const ServiceStats& service = server.service().stats();
  py::dict result;
  result["requests"] = service.requests.load();
  result["rows_pulled"] = service.rows_pulled.load();
  result["rows_pushed"] = service.rows_pushed.load();
  result["moved"] = service.moved.load();
  result["failed"] = service.failed.load();
  result["clients_forgotten"] = server.service().applied().clients_forgotten();
  for (const auto& [name, counter] : kTrafficFields) {
    uint64_t total = 0;
    for (const auto& [transport, traffic] : server.Traffic()) total += (traffic->*counter).load();
    result[name] = total;
  }
  return result;
}

py::tuple Durations(const DurationHistogram& histogram) {
  py::list buckets;
  for (size_t i = 0; i <= DurationHistogram::kBounds; ++i) {
    const double bound = i < DurationHistogram::kBounds
                             ? std::chrono::duration<double>(DurationHistogram::Bound(i)).count()
                             : std::numeric_limits<double>::infinity();
    buckets.append(py::make_tuple(bound, histogram.count(i)));
  }
  return py::make_tuple(buckets, std::chrono::duration<double>(histogram.sum()).count());
}

py::dict ServerTimes(Server& server) {
  const ServiceStats& service = server.service().stats();
  py::dict result;
  result["pull"] = Durations(service.pull_time);
  result["push"] = Durations(service.push_time);
  return result;
}

}  // namespace

void BindServer(py::module_& module) {
  py::class_<Server> bound(module, "Server", "Serves a store to clients. Thread-safe.");
  bound
      .def(py::init(&MakeServer), py::arg("store"), py::kw_only(), py::arg("server"),
           py::arg("secret"), py::arg("threads"), py::keep_alive<1, 2>())
      .def("listen_tcp", &ListenTcp, py::arg("host"), py::arg("port"))
      .def("listen_shm", &ListenShm)
      .def("listen_rdma", &ListenRdma, py::arg("device") = "", py::arg("gid_index") = -1)
      .def("accept_rdma", &AcceptRdma, py::arg("address"))
      .def(
          "add_table",
          [](Server& server, uint64_t salt, TableId table) {
            Status status;
            {
              const py::gil_scoped_release release;
              status = server.service().AddTable(salt, table);
            }
            ThrowIfError(status);
          },
          py::arg("salt"), py::arg("table"))
      .def("set_routing", &SetServerRouting, py::arg("version"), py::arg("owners"),
           py::arg("backups"), py::arg("changed_at"))
      .def(
          "freeze_slots",
          [](Server& server, uint32_t slot_begin, uint32_t slot_end) {
            RequireSlots(slot_begin, slot_end);
            const py::gil_scoped_release release;
            server.service().FreezeSlots(slot_begin, slot_end);
          },
          py::arg("slot_begin"), py::arg("slot_end"))
      .def(
          "retire_leases",
          [](Server& server, uint64_t before) { server.service().RetireLeases(before); },
          py::arg("before"))
      .def("handle", &HandleFrame, py::arg("frame"))
      .def("stats", &ServerStats)
      .def("traffic", &ServerTraffic)
      .def("times", &ServerTimes)
      .def("stop", &Server::Stop, py::call_guard<py::gil_scoped_release>());
  BindCopies(bound);
}

}  // namespace embery
