// A server's end of RDMA: threads that share one channel of completion events, each taking a
// connection that has something to do, receiving what it sent, and answering.
//
// A connection comes into being by Accept, for whom another channel has let in. Its events come one
// at a time, and only after they were asked for. Once a second each peer is probed, so that one
// that has gone is noticed.
//
// Thread-safety: all methods may be called from any thread. Ownership: as Listener says; shares the
// device. Requires: when it is destroyed, every request that it handed out has been answered.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/mutex.h"
#include "base/status.h"
#include "transport/handler.h"
#include "transport/listener.h"
#include "transport/rdma_device.h"
#include "transport/rdma_endpoint.h"
#include "transport/socket.h"

namespace embery {

class RdmaListener final : public Listener {
 public:
  static constexpr size_t kConnectionsMax = 4096;

  // kUnavailable if there is no device.
  static Result<std::unique_ptr<RdmaListener>> Open(const RdmaOptions& options, int threads,
                                                    Handler& handler, BodyPool& pool,
                                                    ListenerStats& stats);
  ~RdmaListener() override { StopAll(); }

  // Takes the address of a client's end, and returns that of the end made for it.
  Result<std::vector<std::byte>> Accept(std::span<const std::byte> address) EXCLUDES(mutex_);

  const std::string& device() const { return device_->name(); }
  void Stop() override { StopAll(); }

 private:
  using Id = uint64_t;

  struct Peer final : ReplySpace {
    explicit Peer(Id number) : id(number) {}
    Body Take(size_t offset, size_t bytes) override EXCLUDES(mutex);

    const Id id;
    const std::shared_ptr<std::atomic<bool>> gone = std::make_shared<std::atomic<bool>>(false);
    Mutex mutex;
    std::unique_ptr<RdmaEndpoint> endpoint GUARDED_BY(mutex);  // Null once it is closed.
    bool greeted GUARDED_BY(mutex) = false;
    bool handling GUARDED_BY(mutex) = false;
    Body body GUARDED_BY(mutex);
    size_t copied GUARDED_BY(mutex) = 0;
    Reply reply GUARDED_BY(mutex);  // Until it is sent.
  };

  RdmaListener(std::shared_ptr<const RdmaDevice> device, Handler& handler, BodyPool& pool,
               ListenerStats& stats)
      : device_(std::move(device)), handler_(handler), pool_(pool), stats_(stats) {}

  Status StartThreads(int threads);
  void Loop();
  void ProbeAll() EXCLUDES(mutex_);
  void Serve(const std::shared_ptr<Peer>& peer) EXCLUDES(mutex_);
  // Whether a whole request is there.
  Result<bool> Receive(Peer& peer) REQUIRES(peer.mutex);
  Status CopyBody(Peer& peer) REQUIRES(peer.mutex);
  void Answer(const std::shared_ptr<Peer>& peer, Reply reply) EXCLUDES(mutex_);
  Status Send(Peer& peer, Reply reply) REQUIRES(peer.mutex);
  void Close(Peer& peer, const Status& reason) REQUIRES(peer.mutex) EXCLUDES(mutex_);
  std::vector<std::shared_ptr<Peer>> peers() EXCLUDES(mutex_);
  void StopAll() EXCLUDES(mutex_);

  const std::shared_ptr<const RdmaDevice> device_;
  Handler& handler_;
  BodyPool& pool_;
  ListenerStats& stats_;
  std::unique_ptr<RdmaChannel> channel_;
  Socket epoll_;
  Socket timer_;
  Socket wake_;  // An eventfd that, once written, wakes every thread for good.
  std::vector<std::thread> threads_;
  Mutex mutex_;
  bool stopped_ GUARDED_BY(mutex_) = false;
  Id last_id_ GUARDED_BY(mutex_) = 0;
  std::unordered_map<Id, std::shared_ptr<Peer>> peers_ GUARDED_BY(mutex_);
};

}  // namespace embery
