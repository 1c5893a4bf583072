// A server's end of a transport: accepts connections and serves their requests until stopped.
//
// Thread-safety: all methods may be called from any thread. Ownership: owns its threads and
// connections; borrows the handler and the pool, which must outlive it.
#pragma once

#include <atomic>
#include <cstdint>

namespace embery {

struct ListenerStats {
  std::atomic<uint64_t> connections{0};  // Open now.
  std::atomic<uint64_t> accepted{0};
  std::atomic<uint64_t> bytes_in{0};
  std::atomic<uint64_t> bytes_out{0};
  std::atomic<uint64_t> malformed{0};        // Connections closed for a frame that made no sense.
  std::atomic<uint64_t> unauthenticated{0};  // Connections closed for a wrong secret.
};

class Listener {
 public:
  virtual ~Listener() = default;

  // Closes all connections and joins the threads; replies that come later are dropped. May be
  // called twice.
  virtual void Stop() = 0;
};

}  // namespace embery
