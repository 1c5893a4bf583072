// A worker's side of the servers: one call goes to all that are concerned, at once.
//
// Thread-safety: all methods may be called from any thread; calls share the connections, each
// taking one a server for itself and opening another if all are in use. Ownership: owns connectors
// and connections; the arrays of a call are the caller's and must stay as they are until it
// returns. Invariant: a connection that failed, or whose reply came too late, is closed and never
// used again.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/mutex.h"
#include "base/recycler.h"
#include "base/status.h"
#include "base/thread_pool.h"
#include "client/residuals.h"
#include "client/shards.h"
#include "optim/kernels.h"
#include "transport/connection.h"
#include "wire/messages.h"

namespace embery {

struct PullCall {
  std::span<const TableKeys> tables;
  std::span<float* const> out;       // (keys, dim) of each table.
  std::span<uint8_t* const> absent;  // For ReadMode::kPeek one a table, else empty.
  ReadMode mode;
  uint32_t now_s;
  std::span<uint8_t* const> refused;  // Empty, or one a table.
  Deadline deadline;
};

struct PushCall {
  std::span<const TableKeys> tables;
  std::span<const float* const> grads;  // (keys, dim) of each table.
  uint64_t as;  // Whose push it is: the client's number, or that of a lease.
  uint64_t sequence;
  uint64_t round;
  uint32_t rank;
  uint32_t world;
  uint32_t now_s;
  std::span<uint8_t* const> refused;
  Deadline deadline;
};

// How a table's values travel between this client and all servers.
struct WireSpec {
  uint32_t dim;
  ValueType rows = ValueType::kFloat32;
  ValueType grads = ValueType::kFloat32;
  // Keys of which is kept what rounding took from their gradients; below 2: none. See residuals.h.
  uint64_t residual_rows_max = 0;

  friend bool operator==(const WireSpec&, const WireSpec&) = default;
};

class Client {
 public:
  // `threads` share the work of a call, the caller among them.
  Client(uint64_t number, const Kernels& kernels, int threads)
      : number_(number), kernels_(kernels), pool_(threads) {}

  uint64_t number() const { return number_; }

  // Opens the first connection, so that a wrong address or secret fails here; replaces a connector
  // of the same server.
  Status Connect(uint16_t server, std::unique_ptr<Connector> connector, Deadline deadline)
      EXCLUDES(mutex_);
  void Disconnect(uint16_t server) EXCLUDES(mutex_);

  // The number of the owner of each slot.
  Status SetRouting(uint64_t version, std::span<const uint16_t> owners) EXCLUDES(mutex_);

  // From the next call on; float32 both ways until then. Residuals stay if the spec is the same.
  void SetWire(uint64_t salt, const WireSpec& spec) EXCLUDES(mutex_);

  // What is kept of a table's gradients; null if nothing is.
  std::shared_ptr<Residuals> residuals(uint64_t salt) EXCLUDES(mutex_);

  // Forgets the residuals of all tables, as when rows are replaced.
  void ClearResiduals() EXCLUDES(mutex_);

  // How many keys were refused as no longer the server's; those, and only those, are to be asked
  // for again with newer routing. On failure some rows of `out` may be filled.
  Result<size_t> Pull(const PullCall& call) EXCLUDES(mutex_);

  // The same; on failure some servers may have applied their part. The residuals of refused keys,
  // and on failure of all, are as before, so that a call of the same sequence sends the same bytes
  // again; servers that have applied their part know the sequence, and do nothing.
  Result<size_t> Push(const PushCall& call) EXCLUDES(mutex_);

  // Sends a frame of copies (copy_frame.h) to a server; returns how many of its slots were refused
  // as no longer the sender's.
  Result<uint32_t> SendCopy(uint16_t server, std::span<const std::byte> frame, Deadline deadline)
      EXCLUDES(mutex_);

  struct Stats {
    uint64_t connections;
    uint64_t connects;
    uint64_t requests;
    uint64_t keys;       // As given.
    uint64_t keys_sent;  // After equal ones were joined.
    uint64_t bytes_sent;
    uint64_t bytes_received;
    uint64_t refused;
    uint64_t residual_rows;
    uint64_t residuals_dropped;
  };
  Stats stats() EXCLUDES(mutex_);

 private:
  struct Peer {
    explicit Peer(std::unique_ptr<Connector> made_by) : connector(std::move(made_by)) {}
    const std::unique_ptr<Connector> connector;
    Mutex mutex;
    std::vector<std::unique_ptr<Connection>> idle GUARDED_BY(mutex);
    bool closed GUARDED_BY(mutex) = false;
  };
  struct Exchange {
    std::shared_ptr<Peer> peer;
    std::unique_ptr<Connection> connection;  // Null where nothing is sent.
    ReplyMessage reply{};
  };
  struct Wire {
    WireSpec spec;
    std::shared_ptr<Residuals> residuals;  // Null if none are kept.
  };
  struct Scratch {
    Shards shards;
    std::vector<Buffer<std::byte>> grads;  // Encoded, of each shard.
    std::vector<Buffer<float>> undo;       // Of each table.
  };

  std::shared_ptr<const ClientRouting> routing() EXCLUDES(mutex_);
  // The wires of a call's tables; kInvalidArgument if one has another dim.
  Result<std::vector<Wire>> FindWires(std::span<const TableKeys> tables) EXCLUDES(mutex_);
  static std::vector<Feedback> MakeFeedback(const std::vector<Wire>& wires, Scratch& scratch);
  Result<std::shared_ptr<Peer>> FindPeer(uint16_t server) EXCLUDES(mutex_);
  Result<std::unique_ptr<Connection>> Take(Peer& peer, Deadline deadline);
  static void GiveBack(std::vector<Exchange>& exchanges);
  // Takes a connection to the server.
  Status Open(Exchange& exchange, uint16_t server, Deadline deadline) EXCLUDES(mutex_);
  // Returns once all servers have answered; on failure the residuals are as before.
  Status SendGradients(const PushCall& call, const ClientRouting& by,
                       std::span<const Feedback> feedback, Scratch& scratch,
                       std::vector<Exchange>& exchanges) EXCLUDES(mutex_);
  // Calls `progressed` whenever replies may have grown.
  static Status Finish(std::vector<Exchange>& exchanges, Deadline deadline,
                       const std::function<void()>& progressed);
  static Status FirstFailure(std::vector<Exchange>& exchanges);
  static Status CheckRows(const std::vector<Exchange>& exchanges, const Shards& shards,
                          ReadMode mode);
  size_t MarkRefused(const std::vector<bool>& refused, const Shards& shards,
                     std::span<uint8_t* const> out) EXCLUDES(mutex_);
  void CountTraffic(const std::vector<Exchange>& exchanges, std::span<const TableKeys> tables,
                    const Shards& shards) EXCLUDES(mutex_);

  const uint64_t number_;
  const Kernels& kernels_;
  ThreadPool pool_;
  Mutex mutex_;
  std::map<uint16_t, std::shared_ptr<Peer>> peers_ GUARDED_BY(mutex_);
  std::shared_ptr<const ClientRouting> routing_ GUARDED_BY(mutex_);
  std::map<uint64_t, Wire> wires_ GUARDED_BY(mutex_);  // By salt.
  Stats stats_ GUARDED_BY(mutex_){};
  Recycler<Scratch> scratch_;
};

}  // namespace embery
