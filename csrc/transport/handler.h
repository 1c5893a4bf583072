// What a server's transports hand requests to, whatever carried them.
//
// Thread-safety: a Handler may be called from any thread. Ownership: a request owns its body; a
// reply owns its bytes.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/status.h"
#include "wire/body.h"
#include "wire/frame.h"

namespace embery {

// Memory of a transport for what its peer is to read, so that rows are not copied on their way.
class ReplySpace {
 public:
  virtual ~ReplySpace() = default;

  // For what begins `offset` bytes into the body of the next reply; empty if there is none.
  virtual Body Take(size_t offset, size_t bytes) = 0;
};

struct Request {
  FrameHeader header;
  Body body;
  // Set once nobody waits for the reply any more; null if the transport cannot tell.
  std::shared_ptr<const std::atomic<bool>> abandoned = nullptr;
  // Null if the transport sends from anywhere. Used by nobody else until the reply is given.
  std::shared_ptr<ReplySpace> reply_space = nullptr;
};

// A frame in two pieces, so that rows are sent from where they were pulled to.
struct Reply {
  std::vector<std::byte> head;  // Header, and the body up to the rows.
  Body rows;
};

class Handler {
 public:
  using Done = std::function<void(Reply)>;

  virtual ~Handler() = default;

  // Checks the first frame of a connection; a connection that fails gets the reply, and is closed.
  virtual Status CheckHello(const Request& hello) = 0;

  // Answers a hello or refuses a request.
  virtual Reply StatusReply(uint64_t request, const Status& status) = 0;

  // Calls `done` exactly once: before returning, or later from another thread, for a push that
  // waits for those of other workers.
  virtual void Handle(Request request, Done done) = 0;
};

}  // namespace embery
