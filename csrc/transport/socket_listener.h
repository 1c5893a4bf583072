// A server's end of its sockets, TCP or Unix with shared memory: threads that share one epoll, each
// taking a connection that is ready, reading what it sent, and answering.
//
// A connection has one request at a time. Its events are one-shot, so that one thread at a time
// serves it; while a push waits for those of other workers only a hang-up is awaited.
//
// Thread-safety: all methods may be called from any thread. Ownership: as Listener says. Requires:
// when it is destroyed, every request that it handed out has been answered.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/mutex.h"
#include "base/status.h"
#include "transport/handler.h"
#include "transport/listener.h"
#include "transport/shared_areas.h"
#include "transport/socket.h"
#include "transport/socket_connection.h"

namespace embery {

class SocketListener final : public Listener {
 public:
  static constexpr size_t kConnectionsMax = 4096;

  // At a port of its own choice if `port` is 0.
  static Result<std::unique_ptr<SocketListener>> OpenTcp(const std::string& host, uint16_t port,
                                                         int threads, Handler& handler,
                                                         BodyPool& pool, ListenerStats& stats);
  static Result<std::unique_ptr<SocketListener>> OpenShm(int threads, Handler& handler,
                                                         BodyPool& pool, ListenerStats& stats);
  ~SocketListener() override { StopAll(); }

  uint16_t port() const { return port_; }            // Of TCP.
  const std::string& name() const { return name_; }  // Of shared memory: what nobody can guess.
  void Stop() override { StopAll(); }

 private:
  using Id = uint64_t;

  // One client. Guarded by its mutex, but for the socket's descriptor, which stays.
  struct Peer {
    Id id = 0;
    Socket socket;
    std::shared_ptr<SharedAreas> areas;  // Null over TCP. Whoever handles a request uses it.
    const std::shared_ptr<std::atomic<bool>> gone = std::make_shared<std::atomic<bool>>(false);
    Mutex mutex;
    bool greeted GUARDED_BY(mutex) = false;
    bool closed GUARDED_BY(mutex) = false;
    bool closes_when_sent GUARDED_BY(mutex) = false;
    bool handling GUARDED_BY(mutex) = false;
    std::array<std::byte, kHeaderBytes> header GUARDED_BY(mutex);
    size_t header_got GUARDED_BY(mutex) = 0;
    FrameHeader request GUARDED_BY(mutex){FrameType::kHello, 0, 0};
    Body body GUARDED_BY(mutex);
    size_t body_got GUARDED_BY(mutex) = 0;
    Reply reply GUARDED_BY(mutex);
    Outgoing outgoing GUARDED_BY(mutex);
  };
  enum class Progress : uint8_t { kWait, kComplete, kClose };

  SocketListener(Sharing sharing, Handler& handler, BodyPool& pool, ListenerStats& stats)
      : sharing_(sharing), handler_(handler), pool_(pool), stats_(stats) {}

  Status BindTcp(const std::string& host, uint16_t port);
  Status BindShm();
  Status StartThreads(int threads);
  void Loop();
  void AcceptAll();
  void Serve(const std::shared_ptr<Peer>& peer) EXCLUDES(mutex_);
  Progress ReadFrame(Peer& peer) REQUIRES(peer.mutex);
  bool BeginBody(Peer& peer) REQUIRES(peer.mutex);
  void Answer(const std::shared_ptr<Peer>& peer, Reply reply) EXCLUDES(mutex_);
  void Send(Peer& peer) REQUIRES(peer.mutex);
  static bool IsShared(const Peer& peer, size_t body_bytes);
  void Arm(Peer& peer, uint32_t events) REQUIRES(peer.mutex);
  void Close(Peer& peer) REQUIRES(peer.mutex) EXCLUDES(mutex_);
  std::shared_ptr<Peer> Find(Id id) EXCLUDES(mutex_);
  void StopAll() EXCLUDES(mutex_);

  const Sharing sharing_;
  Handler& handler_;
  BodyPool& pool_;
  ListenerStats& stats_;
  Socket listening_;
  Socket epoll_;
  Socket wake_;   // An eventfd that, once written, wakes every thread for good.
  Socket spare_;  // Given up for a moment to turn a client away when descriptors run out.
  uint16_t port_ = 0;
  std::string name_;
  std::vector<std::thread> threads_;
  Mutex mutex_;
  bool stopped_ GUARDED_BY(mutex_) = false;
  Id last_id_ GUARDED_BY(mutex_) = 1;
  std::unordered_map<Id, std::shared_ptr<Peer>> peers_ GUARDED_BY(mutex_);
};

}  // namespace embery
