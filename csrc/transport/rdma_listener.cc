#include "transport/rdma_listener.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "base/counter.h"
#include "wire/messages.h"

namespace embery {
namespace {

enum class Ready : uint64_t { kWake, kTimer, kChannel };

constexpr itimerspec kProbeInterval{{1, 0}, {1, 0}};

}  // namespace

// ---- life cycle ---------------------------------------------------------------------------------

Result<std::unique_ptr<RdmaListener>> RdmaListener::Open(const RdmaOptions& options, int threads,
                                                         Handler& handler, BodyPool& pool,
                                                         ListenerStats& stats) {
  Result<std::shared_ptr<const RdmaDevice>> device = RdmaDevice::Open(options);
  if (!device.ok()) return device.status();
  std::unique_ptr<RdmaListener> listener(
      new RdmaListener(std::move(device).value(), handler, pool, stats));
  EMBERY_RETURN_IF_ERROR(listener->StartThreads(threads));
  return listener;
}

Status RdmaListener::StartThreads(int threads) {
  Result<std::unique_ptr<RdmaChannel>> channel = RdmaChannel::Make(device_);
  if (!channel.ok()) return channel.status();
  channel_ = std::move(channel).value();
  epoll_ = Socket(epoll_create1(EPOLL_CLOEXEC));
  wake_ = Socket(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  timer_ = Socket(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  if (!epoll_ || !wake_ || !timer_) {
    return Status::ResourceExhausted("listen_rdma: no file descriptor is left");
  }
  timerfd_settime(timer_.fd(), 0, &kProbeInterval, nullptr);
  const auto watch = [this](int fd, Ready what) {
    epoll_event event{EPOLLIN, {.u64 = static_cast<uint64_t>(what)}};
    epoll_ctl(epoll_.fd(), EPOLL_CTL_ADD, fd, &event);
  };
  watch(wake_.fd(), Ready::kWake);
  watch(timer_.fd(), Ready::kTimer);
  watch(channel_->fd(), Ready::kChannel);
  for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { Loop(); });
  return Status::Ok();
}

void RdmaListener::StopAll() {
  {
    const MutexLock lock(mutex_);
    if (std::exchange(stopped_, true)) return;
  }
  eventfd_write(wake_.fd(), 1);
  for (std::thread& thread : threads_) thread.join();
  for (const std::shared_ptr<Peer>& peer : peers()) {
    const MutexLock lock(peer->mutex);
    Close(*peer, Status::Ok());
  }
}

Result<std::vector<std::byte>> RdmaListener::Accept(std::span<const std::byte> address) {
  const Result<RdmaAddress> client = DecodeRdmaAddress(address);
  if (!client.ok()) return client.status();
  std::shared_ptr<Peer> peer;
  {
    const MutexLock lock(mutex_);
    if (stopped_) return Status::Unavailable("the server was stopped");
    if (peers_.size() >= kConnectionsMax) {
      return Status::ResourceExhausted("the server has " + std::to_string(kConnectionsMax) +
                                       " RDMA connections, and takes no more");
    }
    peer = std::make_shared<Peer>(++last_id_);
  }
  Result<std::unique_ptr<RdmaEndpoint>> endpoint = RdmaEndpoint::Make(device_, *channel_, peer->id);
  if (!endpoint.ok()) return endpoint.status();
  EMBERY_RETURN_IF_ERROR(endpoint.value()->Connect(client.value()));
  const std::vector<std::byte> reply = EncodeRdmaAddress(endpoint.value()->address());
  {
    const MutexLock lock(peer->mutex);
    peer->endpoint = std::move(endpoint).value();
  }
  {
    const MutexLock lock(mutex_);
    if (stopped_) return Status::Unavailable("the server was stopped");
    peers_.emplace(peer->id, peer);
  }
  Count(stats_.accepted, 1);
  Count(stats_.connections, 1);
  Serve(peer);  // Asks for its events.
  return reply;
}

void RdmaListener::Close(Peer& peer, const Status& reason) {
  if (peer.endpoint == nullptr) return;
  peer.endpoint.reset();
  peer.gone->store(true);
  if (reason.code() == StatusCode::kInvalidArgument) Count(stats_.malformed, 1);
  stats_.connections.fetch_sub(1, std::memory_order_relaxed);  // A counter orders nothing.
  const MutexLock lock(mutex_);
  peers_.erase(peer.id);
}

std::vector<std::shared_ptr<RdmaListener::Peer>> RdmaListener::peers() {
  std::vector<std::shared_ptr<Peer>> found;
  const MutexLock lock(mutex_);
  for (const auto& [id, peer] : peers_) found.push_back(peer);
  return found;
}

// ---- events -------------------------------------------------------------------------------------

void RdmaListener::Loop() {
  while (true) {
    epoll_event event;
    const int ready = epoll_wait(epoll_.fd(), &event, 1, -1);
    if (ready <= 0) continue;
    switch (static_cast<Ready>(event.data.u64)) {
      case Ready::kWake:
        return;
      case Ready::kTimer:
        ProbeAll();
        break;
      case Ready::kChannel:
        if (const std::optional<Id> id = channel_->Next()) {
          std::shared_ptr<Peer> peer;
          {
            const MutexLock lock(mutex_);
            const auto at = peers_.find(*id);
            if (at != peers_.end()) peer = at->second;
          }
          if (peer != nullptr) Serve(peer);
        }
        break;
    }
  }
}

void RdmaListener::ProbeAll() {
  uint64_t times = 0;
  if (read(timer_.fd(), &times, sizeof(times)) <= 0) return;  // Another thread took it.
  for (const std::shared_ptr<Peer>& peer : peers()) {
    {
      const MutexLock lock(peer->mutex);
      if (peer->endpoint == nullptr) continue;
      const Status probed = peer->endpoint->Probe();
      if (!probed.ok()) Close(*peer, probed);
    }
    Serve(peer);
  }
}

// ---- requests -----------------------------------------------------------------------------------

void RdmaListener::Serve(const std::shared_ptr<Peer>& peer) {
  Request request;
  bool greeted = false;
  {
    const MutexLock lock(peer->mutex);
    if (peer->endpoint == nullptr) return;
    peer->endpoint->Disarm();
    const Result<bool> complete = Receive(*peer);
    if (!complete.ok()) return Close(*peer, complete.status());
    if (!complete.value()) return;
    request = {*peer->endpoint->incoming(), std::move(peer->body), peer->gone, peer};
    peer->copied = 0;
    peer->handling = true;
    greeted = peer->greeted;
  }
  if (greeted) {
    return handler_.Handle(std::move(request),
                           [this, peer](Reply reply) { Answer(peer, std::move(reply)); });
  }
  const Status hello = handler_.CheckHello(request);
  if (!hello.ok()) Count(stats_.unauthenticated, 1);
  {
    const MutexLock lock(peer->mutex);
    peer->greeted = hello.ok();
  }
  Answer(peer, handler_.StatusReply(request.header.request, hello));
}

Result<bool> RdmaListener::Receive(Peer& peer) {
  RdmaEndpoint& endpoint = *peer.endpoint;
  while (true) {
    const Result<bool> moved = endpoint.Progress();
    if (!moved.ok()) return moved.status();
    if (endpoint.is_sent()) peer.reply = Reply();
    if (endpoint.incoming() != nullptr && !peer.handling) {
      const Status copied = CopyBody(peer);
      if (copied.code() == StatusCode::kResourceExhausted) {
        EMBERY_RETURN_IF_ERROR(
            Send(peer, handler_.StatusReply(endpoint.incoming()->request, copied)));
      } else if (!copied.ok()) {
        return copied;
      } else if (endpoint.is_received()) {
        return true;
      }
    }
    if (!moved.value()) return false;
  }
}

Status RdmaListener::CopyBody(Peer& peer) {
  RdmaEndpoint& endpoint = *peer.endpoint;
  const uint32_t bytes = endpoint.incoming()->body_bytes;
  if (!peer.greeted && bytes > kHelloBytesMax) {
    return Status::InvalidArgument("a client must show its secret first");
  }
  EMBERY_RETURN_IF_ERROR(endpoint.Admit());
  if (peer.body.size() != bytes) {
    peer.body = Body::Take(pool_, bytes);
    if (peer.body.data() == nullptr) {
      return Status::ResourceExhausted("no memory for a request of " + std::to_string(bytes) +
                                       " bytes");
    }
  }
  // A copy, so that a client that writes out of its turn cannot change what was checked.
  const auto fresh = endpoint.body().subspan(peer.copied, endpoint.received_bytes() - peer.copied);
  std::copy(fresh.begin(), fresh.end(), peer.body.data() + peer.copied);
  Count(stats_.bytes_in, fresh.size() + (peer.copied == 0 ? kHeaderBytes : 0));
  peer.copied += fresh.size();
  return Status::Ok();
}

Body RdmaListener::Peer::Take(size_t offset, size_t bytes) {
  const MutexLock lock(mutex);
  if (endpoint == nullptr) return {};
  const std::span<std::byte> place = endpoint->Place(offset + bytes);
  if (place.empty()) return {};
  return Body::Borrow(endpoint->place_owner(), place.subspan(offset));
}

void RdmaListener::Answer(const std::shared_ptr<Peer>& peer, Reply reply) {
  const MutexLock lock(peer->mutex);
  peer->handling = false;
  if (peer->endpoint == nullptr) return;
  const Status sent = Send(*peer, std::move(reply));
  if (!sent.ok()) Close(*peer, sent);
}

Status RdmaListener::Send(Peer& peer, Reply reply) {
  RdmaEndpoint& endpoint = *peer.endpoint;
  peer.body = Body();
  peer.copied = 0;
  endpoint.Release();
  // Before the client can ask again, so that its next request is an event.
  EMBERY_RETURN_IF_ERROR(endpoint.Arm());
  peer.reply = std::move(reply);
  const std::span<const std::byte> head = peer.reply.head;
  const std::span<const std::byte> body[] = {head.subspan(kHeaderBytes), peer.reply.rows.bytes()};
  const size_t bytes = body[0].size() + body[1].size();
  Count(stats_.bytes_out, kHeaderBytes + bytes);
  EMBERY_RETURN_IF_ERROR(endpoint.Send(head.first<kHeaderBytes>(), body, bytes));
  while (!endpoint.is_sent()) {
    const Result<bool> moved = endpoint.Progress();
    if (!moved.ok()) return moved.status();
    if (!moved.value()) return Status::Ok();
  }
  peer.reply = Reply();
  return Status::Ok();
}

}  // namespace embery
