#include "transport/tcp_listener.h"

#include <fcntl.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

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

Result<std::unique_ptr<TcpListener>> TcpListener::Open(const Options& options, Handler& handler,
                                                       BodyPool& pool, ListenerStats& stats) {
  std::unique_ptr<TcpListener> listener(new TcpListener(handler, pool, stats));
  EMBERY_RETURN_IF_ERROR(listener->Bind(options));
  EMBERY_RETURN_IF_ERROR(listener->StartThreads(options.threads));
  return listener;
}

Status TcpListener::Bind(const Options& options) {
  const std::string where = "listen_tcp: " + options.host + ":" + std::to_string(options.port);
  const Result<std::vector<SocketAddress>> addresses = Resolve(options.host, options.port);
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

Status TcpListener::StartThreads(int threads) {
  epoll_ = Socket(epoll_create1(EPOLL_CLOEXEC));
  wake_ = Socket(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  spare_ = Socket(open("/dev/null", O_RDONLY | O_CLOEXEC));
  if (!epoll_ || !wake_ || !spare_) {
    return Status::ResourceExhausted("listen_tcp: no file descriptor is left");
  }
  epoll_event wake{EPOLLIN, {.u64 = kWakeId}};
  epoll_event listening{EPOLLIN | EPOLLEXCLUSIVE, {.u64 = kListeningId}};
  epoll_ctl(epoll_.fd(), EPOLL_CTL_ADD, wake_.fd(), &wake);
  epoll_ctl(epoll_.fd(), EPOLL_CTL_ADD, listening_.fd(), &listening);
  for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { Loop(); });
  return Status::Ok();
}

void TcpListener::StopAll() {
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

void TcpListener::Loop() {
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

std::shared_ptr<TcpListener::Peer> TcpListener::Find(Id id) {
  const MutexLock lock(mutex_);
  const auto at = peers_.find(id);
  return at == peers_.end() ? nullptr : at->second;
}

void TcpListener::AcceptAll() {
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
    const int on = 1;
    setsockopt(made.fd(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    const auto peer = std::make_shared<Peer>();
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

void TcpListener::Arm(Peer& peer, uint32_t events) {
  epoll_event event{events | EPOLLONESHOT, {.u64 = peer.id}};
  epoll_ctl(epoll_.fd(), EPOLL_CTL_MOD, peer.socket.fd(), &event);
}

void TcpListener::Close(Peer& peer) {
  if (std::exchange(peer.closed, true)) return;
  peer.gone->store(true);
  epoll_ctl(epoll_.fd(), EPOLL_CTL_DEL, peer.socket.fd(), nullptr);
  shutdown(peer.socket.fd(), SHUT_RDWR);
  stats_.connections.fetch_sub(1, std::memory_order_relaxed);  // A counter orders nothing.
  const MutexLock lock(mutex_);
  peers_.erase(peer.id);
}

// ---- requests -----------------------------------------------------------------------------------

bool TcpListener::BeginBody(Peer& peer) {
  const uint32_t bytes_max = peer.greeted ? kBodyBytesMax : kHelloBytesMax;
  const Result<FrameHeader> header = DecodeHeader(peer.header, bytes_max);
  if (!header.ok()) {
    Count(stats_.malformed, 1);
    return false;
  }
  peer.request = header.value();
  peer.body = Body::Take(pool_, peer.request.body_bytes);
  peer.body_got = 0;
  return peer.body.size() == 0 || peer.body.data() != nullptr;
}

TcpListener::Progress TcpListener::ReadFrame(Peer& peer) {
  if (peer.header_got < kHeaderBytes) {
    const auto rest = std::span(peer.header).subspan(peer.header_got);
    const Transfer read = ReadInto(peer.socket.fd(), rest);
    Count(stats_.bytes_in, read.bytes);
    peer.header_got += read.bytes;
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

void TcpListener::Serve(const std::shared_ptr<Peer>& peer) {
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
    request = {peer->request, std::move(peer->body), peer->gone};
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

void TcpListener::Answer(const std::shared_ptr<Peer>& peer, Reply reply) {
  const MutexLock lock(peer->mutex);
  peer->handling = false;
  if (peer->closed) return;
  peer->reply = std::move(reply);
  peer->outgoing.Clear();
  peer->outgoing.Add(peer->reply.head);
  peer->outgoing.Add(peer->reply.rows.bytes());
  Send(*peer);
}

void TcpListener::Send(Peer& peer) {
  const Transfer sent = peer.outgoing.Send(peer.socket.fd());
  Count(stats_.bytes_out, sent.bytes);
  if (sent.end == Transfer::End::kWouldBlock) return Arm(peer, EPOLLOUT);
  peer.reply = Reply();
  if (sent.end == Transfer::End::kClosed || peer.closes_when_sent) return Close(peer);
  Arm(peer, EPOLLIN | EPOLLRDHUP);
}

}  // namespace embery
