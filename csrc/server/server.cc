#include "server/server.h"

#include <chrono>
#include <cstring>
#include <future>
#include <utility>

#include "base/counter.h"
#include "transport/socket_listener.h"

namespace embery {
namespace {

// A push waits for its group no longer than this, should the caller have no deadline of its own.
constexpr std::chrono::minutes kGroupWaitMax{10};

}  // namespace

Result<uint16_t> Server::ListenTcp(const std::string& host, uint16_t port) {
  const MutexLock lock(mutex_);
  if (stopped_) return Status::Unavailable("listen_tcp: the server was stopped");
  auto listener = SocketListener::OpenTcp(host, port, threads_, service_, pool_, traffic_["tcp"]);
  if (!listener.ok()) return listener.status();
  const uint16_t bound = listener.value()->port();
  listeners_.push_back(std::move(listener).value());
  return bound;
}

Result<std::string> Server::ListenShm() {
  const MutexLock lock(mutex_);
  if (stopped_) return Status::Unavailable("listen_shm: the server was stopped");
  auto listener = SocketListener::OpenShm(threads_, service_, pool_, traffic_["shm"]);
  if (!listener.ok()) return listener.status();
  std::string name = listener.value()->name();
  listeners_.push_back(std::move(listener).value());
  return name;
}

Result<std::string> Server::ListenRdma(const RdmaOptions& options) {
  const MutexLock lock(mutex_);
  if (stopped_) return Status::Unavailable("listen_rdma: the server was stopped");
  if (rdma_ != nullptr) return Status::InvalidArgument("listen_rdma: the server does already");
  auto listener = RdmaListener::Open(options, threads_, service_, pool_, traffic_["rdma"]);
  if (!listener.ok()) {
    traffic_.erase("rdma");
    return listener.status();
  }
  rdma_ = std::move(listener).value();
  listeners_.push_back(rdma_);
  return rdma_->device();
}

Result<std::vector<std::byte>> Server::AcceptRdma(std::span<const std::byte> address) {
  std::shared_ptr<RdmaListener> listener;
  {
    const MutexLock lock(mutex_);
    listener = rdma_;
  }
  if (listener == nullptr) return Status::Unavailable("the server does not listen for RDMA");
  return listener->Accept(address);
}

Result<Reply> Server::Handle(std::span<const std::byte> frame) {
  const Result<FrameView> view = DecodeFrame(frame);
  if (!view.ok()) return view.status();
  ListenerStats* traffic = nullptr;
  {
    const MutexLock lock(mutex_);
    if (stopped_) return Status::Unavailable("the server was stopped");
    traffic = &traffic_["grpc"];
  }
  Count(traffic->bytes_in, frame.size());
  Request request{view.value().header, Body::Take(pool_, view.value().body.size())};
  if (!view.value().body.empty()) {
    if (request.body.data() == nullptr) {
      return Status::ResourceExhausted("no memory for a request of " +
                                       std::to_string(view.value().body.size()) + " bytes");
    }
    std::memcpy(request.body.data(), view.value().body.data(), view.value().body.size());
  }
  // Shared: a reply may come after this call has given up.
  const auto promise = std::make_shared<std::promise<Reply>>();
  std::future<Reply> reply = promise->get_future();
  service_.Handle(std::move(request),
                  [promise](Reply made) { promise->set_value(std::move(made)); });
  if (reply.wait_for(kGroupWaitMax) != std::future_status::ready) {
    return Status(StatusCode::kDeadlineExceeded, "the other workers of this push did not come");
  }
  Reply made = reply.get();
  Count(traffic->bytes_out, made.head.size() + made.rows.size());
  return made;
}

std::vector<std::pair<std::string, const ListenerStats*>> Server::Traffic() {
  const MutexLock lock(mutex_);
  std::vector<std::pair<std::string, const ListenerStats*>> result;
  for (const auto& [transport, stats] : traffic_) result.emplace_back(transport, &stats);
  return result;
}

void Server::Stop() {
  std::vector<std::shared_ptr<Listener>> listeners;
  {
    const MutexLock lock(mutex_);
    stopped_ = true;
    listeners.swap(listeners_);
  }
  // First what waits for others, so that its connections still carry the reply.
  service_.Stop();
  for (const std::shared_ptr<Listener>& listener : listeners) listener->Stop();
  // What came between.
  service_.Stop();
}

}  // namespace embery
