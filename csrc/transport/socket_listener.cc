#include "transport/socket_listener.h"

#include <fcntl.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/random.h>

#include <cerrno>
#include <utility>

#include "base/counter.h"
#include "wire/messages.h"

namespace embery {
namespace {

constexpr int kBacklog = 1024;
// What epoll says is ready, besides clients, whose ids come after.
constexpr uint64_t kWakeId = 0;
constexpr uint64_t kListeningId = 1;

uint16_t PortOf(int fd) {
  SocketAddress address;
  address.bytes = sizeof(address.storage);
  getsockname(fd, reinterpret_cast<sockaddr*>(&address.storage), &address.bytes);
  return ntohs(address.storage.ss_family == AF_INET6
                   ? reinterpret_cast<const sockaddr_in6*>(&address.storage)->sin6_port
                   : reinterpret_cast<const sockaddr_in*>(&address.storage)->sin_port);
}

}  // namespace

// ---- life cycle ---------------------------------------------------------------------------------

Result<std::unique_ptr<SocketListener>> SocketListener::OpenTcp(const std::string& host,
                                                                uint16_t port, int threads,
                                                                Handler& handler, BodyPool& pool,
                                                                ListenerStats& stats) {
  std::unique_ptr<SocketListener> listener(
      new SocketListener(Sharing::kNothing, handler, pool, stats));
  EMBERY_RETURN_IF_ERROR(listener->BindTcp(host, port));
  EMBERY_RETURN_IF_ERROR(listener->StartThreads(threads));
  return listener;
}

Result<std::unique_ptr<SocketListener>> SocketListener::OpenShm(int threads, Handler& handler,
                                                                BodyPool& pool,
                                                                ListenerStats& stats) {
  std::unique_ptr<SocketListener> listener(
      new SocketListener(Sharing::kMemory, handler, pool, stats));
  EMBERY_RETURN_IF_ERROR(listener->BindShm());
  EMBERY_RETURN_IF_ERROR(listener->StartThreads(threads));
  return listener;
}

Status SocketListener::BindShm() {
  // A name that was never used before, so that nobody takes another server for this one.
  uint64_t random[2];
  if (getrandom(random, sizeof(random), 0) != sizeof(random)) {
    return Status::Unavailable("listen_shm: no random numbers (" + ErrorText(errno) + ")");
  }
  name_ = "embery-" + std::to_string(random[0]) + "-" + std::to_string(random[1]);
  const Result<SocketAddress> address = AbstractAddress(name_);
  if (!address.ok()) return address.status();
  listening_ = Socket(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!listening_ ||
      bind(listening_.fd(), reinterpret_cast<const sockaddr*>(&address.value().storage),
           address.value().bytes) != 0 ||
      listen(listening_.fd(), kBacklog) != 0) {
    return Status::Unavailable("listen_shm: no Unix socket (" + ErrorText(errno) + ")");
  }
  return Status::Ok();
}

Status SocketListener::BindTcp(const std::string& host, uint16_t port) {
  const std::string where = "listen_tcp: " + host + ":" + std::to_string(port);
  const Result<std::vector<SocketAddress>> addresses = Resolve(host, port);
  if (!addresses.ok()) return Status::Unavailable(where + ": " + addresses.status().message());
  const SocketAddress& address = addresses.value().front();
  listening_ =
      Socket(socket(address.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!listening_) return Status::Unavailable(where + ": no socket (" + ErrorText(errno) + ")");
  const int on = 1;
  setsockopt(listening_.fd(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (bind(listening_.fd(), reinterpret_cast<const sockaddr*>(&address.storage), address.bytes) !=
          0 ||
      listen(listening_.fd(), kBacklog) != 0) {
    return Status::Unavailable(where + ": " + ErrorText(errno) +
                               "; choose another port, or 0 for any");
  }
  port_ = PortOf(listening_.fd());
  return Status::Ok();
}

Status SocketListener::StartThreads(int threads) {
  epoll_ = Socket(epoll_create1(EPOLL_CLOEXEC));
  wake_ = Socket(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  spare_ = Socket(open("/dev/null", O_RDONLY | O_CLOEXEC));
  if (!epoll_ || !wake_ || !spare_) {
    return Status::ResourceExhausted("listen: no file descriptor is left");
  }
  epoll_event wake{EPOLLIN, {.u64 = kWakeId}};
  epoll_event listening{EPOLLIN | EPOLLEXCLUSIVE, {.u64 = kListeningId}};
  epoll_ctl(epoll_.fd(), EPOLL_CTL_ADD, wake_.fd(), &wake);
  epoll_ctl(epoll_.fd(), EPOLL_CTL_ADD, listening_.fd(), &listening);
  for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { Loop(); });
  return Status::Ok();
}

void SocketListener::StopAll() {
  {
    const MutexLock lock(mutex_);
    if (std::exchange(stopped_, true)) return;
  }
  eventfd_write(wake_.fd(), 1);
  for (std::thread& thread : threads_) thread.join();
  listening_ = Socket();
  std::unordered_map<Id, std::shared_ptr<Peer>> peers;
  {
    const MutexLock lock(mutex_);
    peers = peers_;
  }
  for (const auto& [id, peer] : peers) {
    const MutexLock lock(peer->mutex);
    Close(*peer);
  }
}

// ---- events -------------------------------------------------------------------------------------

void SocketListener::Loop() {
  while (true) {
    epoll_event event;
    const int ready = epoll_wait(epoll_.fd(), &event, 1, -1);
    if (ready <= 0) continue;
    if (event.data.u64 == kWakeId) return;
    if (event.data.u64 == kListeningId) {
      AcceptAll();
    } else if (const std::shared_ptr<Peer> peer = Find(event.data.u64); peer != nullptr) {
      Serve(peer);
    }
  }
}

std::shared_ptr<SocketListener::Peer> SocketListener::Find(Id id) {
  const MutexLock lock(mutex_);
  const auto at = peers_.find(id);
  return at == peers_.end() ? nullptr : at->second;
}

void SocketListener::AcceptAll() {
  while (true) {
    Socket made(accept4(listening_.fd(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!made && (errno == EMFILE || errno == ENFILE)) {
      // Left in the queue it would be reported again and again.
      const MutexLock lock(mutex_);
      spare_ = Socket();
      spare_ = Socket(accept4(listening_.fd(), nullptr, nullptr, SOCK_CLOEXEC));
      spare_ = Socket();
      spare_ = Socket(open("/dev/null", O_RDONLY | O_CLOEXEC));
      return;
    }
    if (!made && (errno == EINTR || errno == ECONNABORTED)) continue;
    if (!made) return;
    const auto peer = std::make_shared<Peer>();
    if (sharing_ == Sharing::kMemory) {
      peer->areas = std::make_shared<SharedAreas>();
    } else {
      const int on = 1;
      setsockopt(made.fd(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    }
    peer->socket = std::move(made);
    {
      const MutexLock lock(mutex_);
      if (peers_.size() >= kConnectionsMax) continue;  // Closes it.
      peer->id = ++last_id_;
      peers_.emplace(peer->id, peer);
    }
    Count(stats_.accepted, 1);
    Count(stats_.connections, 1);
    epoll_event event{EPOLLIN | EPOLLRDHUP | EPOLLONESHOT, {.u64 = peer->id}};
    epoll_ctl(epoll_.fd(), EPOLL_CTL_ADD, peer->socket.fd(), &event);
  }
}

void SocketListener::Arm(Peer& peer, uint32_t events) {
  epoll_event event{events | EPOLLONESHOT, {.u64 = peer.id}};
  epoll_ctl(epoll_.fd(), EPOLL_CTL_MOD, peer.socket.fd(), &event);
}

void SocketListener::Close(Peer& peer) {
  if (std::exchange(peer.closed, true)) return;
  peer.gone->store(true);
  epoll_ctl(epoll_.fd(), EPOLL_CTL_DEL, peer.socket.fd(), nullptr);
  shutdown(peer.socket.fd(), SHUT_RDWR);
  stats_.connections.fetch_sub(1, std::memory_order_relaxed);  // A counter orders nothing.
  const MutexLock lock(mutex_);
  peers_.erase(peer.id);
}

// ---- requests -----------------------------------------------------------------------------------

bool SocketListener::BeginBody(Peer& peer) {
  const uint32_t bytes_max = peer.greeted ? kBodyBytesMax : kHelloBytesMax;
  const Result<FrameHeader> header = DecodeHeader(peer.header, bytes_max);
  if (!header.ok()) {
    Count(stats_.malformed, 1);
    return false;
  }
  peer.request = header.value();
  peer.body_got = 0;
  if (IsShared(peer, peer.request.body_bytes)) {
    Result<Body> received = peer.areas->Received(peer.request.body_bytes);
    if (!received.ok()) {
      Count(stats_.malformed, 1);
      return false;
    }
    peer.body = std::move(received).value();
    peer.body_got = peer.body.size();
    Count(stats_.bytes_in, peer.body.size());
    return true;
  }
  peer.body = Body::Take(pool_, peer.request.body_bytes);
  return peer.body.size() == 0 || peer.body.data() != nullptr;
}

SocketListener::Progress SocketListener::ReadFrame(Peer& peer) {
  if (peer.header_got < kHeaderBytes) {
    const auto rest = std::span(peer.header).subspan(peer.header_got);
    Socket passed;
    const bool may_share = peer.greeted && peer.areas != nullptr;
    const Transfer read = ReadInto(peer.socket.fd(), rest, may_share ? &passed : nullptr);
    Count(stats_.bytes_in, read.bytes);
    peer.header_got += read.bytes;
    if (passed && !peer.areas->Receive(std::move(passed)).ok()) {
      Count(stats_.malformed, 1);
      return Progress::kClose;
    }
    if (read.end == Transfer::End::kClosed) return Progress::kClose;
    if (read.end == Transfer::End::kWouldBlock) return Progress::kWait;
    if (!BeginBody(peer)) return Progress::kClose;
  }
  const std::span<std::byte> rest(peer.body.data() + peer.body_got,
                                  peer.body.size() - peer.body_got);
  const Transfer read = ReadInto(peer.socket.fd(), rest);
  Count(stats_.bytes_in, read.bytes);
  peer.body_got += read.bytes;
  if (read.end == Transfer::End::kClosed) return Progress::kClose;
  return read.end == Transfer::End::kDone ? Progress::kComplete : Progress::kWait;
}

void SocketListener::Serve(const std::shared_ptr<Peer>& peer) {
  Request request;
  bool greeted = false;
  {
    const MutexLock lock(peer->mutex);
    if (peer->closed) return;
    if (!peer->outgoing.empty()) return Send(*peer);
    // Nothing was asked for but a hang-up.
    if (peer->handling) return Close(*peer);
    switch (ReadFrame(*peer)) {
      case Progress::kWait:
        return Arm(*peer, EPOLLIN | EPOLLRDHUP);
      case Progress::kClose:
        return Close(*peer);
      case Progress::kComplete:
        break;
    }
    request = {peer->request, std::move(peer->body), peer->gone, peer->areas};
    peer->header_got = 0;
    peer->handling = true;
    greeted = peer->greeted;
  }
  if (greeted) {
    handler_.Handle(std::move(request),
                    [this, peer](Reply reply) { Answer(peer, std::move(reply)); });
    const MutexLock lock(peer->mutex);
    if (peer->handling && !peer->closed) Arm(*peer, EPOLLRDHUP);
    return;
  }
  const Status hello = handler_.CheckHello(request);
  if (!hello.ok()) Count(stats_.unauthenticated, 1);
  {
    const MutexLock lock(peer->mutex);
    peer->greeted = hello.ok();
    peer->closes_when_sent = !hello.ok();
  }
  Answer(peer, handler_.StatusReply(request.header.request, hello));
}

void SocketListener::Answer(const std::shared_ptr<Peer>& peer, Reply reply) {
  const MutexLock lock(peer->mutex);
  peer->handling = false;
  if (peer->closed) return;
  peer->reply = std::move(reply);
  peer->outgoing.Clear();
  const std::span<const std::byte> head = peer->reply.head;
  const std::span<const std::byte> body[] = {head.subspan(kHeaderBytes), peer->reply.rows.bytes()};
  const size_t body_bytes = body[0].size() + body[1].size();
  if (!IsShared(*peer, body_bytes)) {
    peer->outgoing.Add(head);
    peer->outgoing.Add(body[1]);
  } else if (peer->areas->Put(body)) {
    peer->outgoing.Add(head.first(kHeaderBytes));
    peer->outgoing.Pass(peer->areas->NewDescriptor());
    Count(stats_.bytes_out, body_bytes);
  } else {
    return Close(*peer);  // No memory is left; the client hears of it as of a server that is gone.
  }
  Send(*peer);
}

bool SocketListener::IsShared(const Peer& peer, size_t body_bytes) {
  return peer.areas != nullptr && body_bytes > SharedAreas::kInlineBytesMax;
}

void SocketListener::Send(Peer& peer) {
  const Transfer sent = peer.outgoing.Send(peer.socket.fd());
  Count(stats_.bytes_out, sent.bytes);
  if (sent.end == Transfer::End::kWouldBlock) return Arm(peer, EPOLLOUT);
  peer.reply = Reply();
  if (sent.end == Transfer::End::kClosed || peer.closes_when_sent) return Close(peer);
  Arm(peer, EPOLLIN | EPOLLRDHUP);
}

}  // namespace embery
