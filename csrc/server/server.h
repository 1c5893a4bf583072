// A server: a service, and the transports that carry requests to it.
//
// Thread-safety: all methods may be called from any thread. Ownership: borrows the store; owns the
// rest. Invariant: nothing is accepted after Stop.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "base/status.h"
#include "server/service.h"
#include "transport/listener.h"
#include "transport/rdma_listener.h"
#include "wire/body.h"

namespace embery {

class Server {
 public:
  Server(Store& store, ServerNumber number, std::string secret, int threads)
      : service_(store, pool_, number, std::move(secret)), threads_(threads) {}
  ~Server() { Stop(); }
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  Service& service() { return service_; }

  // What each transport carried, by its name, if it listens or was used.
  std::vector<std::pair<std::string, const ListenerStats*>> Traffic() EXCLUDES(mutex_);

  // Returns the port.
  Result<uint16_t> ListenTcp(const std::string& host, uint16_t port) EXCLUDES(mutex_);

  // Returns the name of the socket.
  Result<std::string> ListenShm() EXCLUDES(mutex_);

  // Returns the name of the device.
  Result<std::string> ListenRdma(const RdmaOptions& options) EXCLUDES(mutex_);

  // Takes the address of a client's end of RDMA, and returns that of the end made for it.
  Result<std::vector<std::byte>> AcceptRdma(std::span<const std::byte> address) EXCLUDES(mutex_);

  // The reply to a frame that some other channel carried; blocks until a group's push is applied.
  Result<Reply> Handle(std::span<const std::byte> frame) EXCLUDES(mutex_);

  void Stop() EXCLUDES(mutex_);

 private:
  BodyPool pool_;
  Service service_;
  const int threads_;
  Mutex mutex_;
  // Its entries stay where they are, for listeners to count in.
  std::map<std::string, ListenerStats> traffic_ GUARDED_BY(mutex_);
  std::vector<std::shared_ptr<Listener>> listeners_ GUARDED_BY(mutex_);
  std::shared_ptr<RdmaListener> rdma_ GUARDED_BY(mutex_);  // One of them, or null.
  bool stopped_ GUARDED_BY(mutex_) = false;
};

}  // namespace embery
