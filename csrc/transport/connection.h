// A client's way to one server, whatever carries it: one request at a time, without blocking.
//
// Thread-safety: a Connection is used by one thread at a time; Connector::Open may be called from
// any. Ownership: a Connection owns its reply until the next Start; the pieces of a request are the
// caller's, and must stay as they are until the reply is complete or the Connection is destroyed.
// Invariant: a connection whose Advance failed, or that is left with a request under way, is of no
// more use.
#pragma once

#include <poll.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/deadline.h"
#include "base/status.h"
#include "wire/frame.h"

namespace embery {

// Milliseconds until the deadline, rounded up, for poll(); 0 if it has passed.
int MillisecondsUntil(Deadline deadline);

// What is sent after the header, in order.
using Pieces = std::span<const std::span<const std::byte>>;

class Connection {
 public:
  virtual ~Connection() = default;

  // Memory in which the body of the next request is not copied on its way; null if the transport
  // sends from anywhere. Valid until the reply is complete.
  virtual std::byte* Place(size_t /*bytes*/) { return nullptr; }

  // Begins a request: its type, and the pieces of its body, of which the first `ready_bytes` are
  // there to be sent.
  virtual Status Start(FrameType type, Pieces body, size_t ready_bytes) = 0;

  // More of the body is there; sends what can be sent without waiting.
  virtual Status SetReady(size_t ready_bytes) = 0;

  // Does some of what can be done without waiting; true once the reply is complete. Requires: all
  // of the body is ready.
  virtual Result<bool> Advance() = 0;

  // What to wait for before the next Advance.
  virtual pollfd Awaited() const = 0;

  // The reply's body, and how much of it is here; empty while its size is not known.
  virtual std::span<const std::byte> reply() const = 0;
  virtual size_t received_bytes() const = 0;
  // Bytes of header and body, both ways, of the last request.
  virtual uint64_t bytes_sent() const = 0;
};

// Makes connections to one server.
class Connector {
 public:
  virtual ~Connector() = default;

  // Blocks until the server has let the client in; kUnavailable, kUnauthenticated or
  // kDeadlineExceeded say who and why.
  virtual Result<std::unique_ptr<Connection>> Open(Deadline deadline) = 0;

  // For messages: "server 2 at 127.0.0.1:7071".
  virtual const std::string& name() const = 0;
};

// Shows a server the secret, which must come before all else; blocks until it is accepted.
Status Greet(Connection& connection, std::span<const std::byte> hello, const std::string& name,
             Deadline deadline);

// What Greet says when the deadline has passed.
Status NotLetIn(const std::string& name);

// Waits until one of `connections` can go on; false if the deadline passed.
bool WaitForAny(std::span<const pollfd> awaited, Deadline deadline);

}  // namespace embery
