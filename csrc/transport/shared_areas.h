// Shared memory of a connection: each end has an area that it writes and the other reads.
//
// An area is an anonymous file of the system, whose descriptor travels over the connection's Unix
// socket. It is sealed, so that neither end can shrink it under the other, and replaced by a larger
// one when a body does not fit. A connection carries one frame at a time, so a body begins where
// its area does, and is overwritten by the next.
//
// Thread-safety: used by one thread at a time; a Body that was handed out may go to another.
// Ownership: areas live as long as bodies in them.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include "base/status.h"
#include "transport/connection.h"
#include "transport/handler.h"
#include "transport/socket.h"
#include "wire/body.h"

namespace embery {

class SharedArea {
 public:
  // kResourceExhausted if the system has no memory left.
  static Result<std::shared_ptr<SharedArea>> Create(size_t bytes);
  // Read-only. kInvalidArgument if the other end could take its memory away or gave too much.
  static Result<std::shared_ptr<SharedArea>> Map(Socket descriptor);

  SharedArea(const SharedArea&) = delete;
  SharedArea& operator=(const SharedArea&) = delete;
  ~SharedArea();

  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  int descriptor() const { return descriptor_.fd(); }

 private:
  SharedArea(Socket descriptor, std::byte* data, size_t bytes)
      : descriptor_(std::move(descriptor)), data_(data), bytes_(bytes) {}
  static Result<std::shared_ptr<SharedArea>> MapWith(Socket descriptor, size_t bytes, int access);

  const Socket descriptor_;
  std::byte* const data_;
  const size_t bytes_;
};

class SharedAreas final : public ReplySpace {
 public:
  // Larger bodies lie in an area; others follow their header in the socket.
  static constexpr size_t kInlineBytesMax = 1024;

  // Memory for a body to send; null if the system has none left. What lay there is lost.
  std::byte* Place(size_t bytes);
  Body Take(size_t offset, size_t bytes) override;

  // Lays the pieces of a body one behind the other into the area; those that lie there stay. False
  // if the system has no memory left.
  bool Put(Pieces pieces);

  // Of the area that is written, if the other end has not been given it yet; else -1.
  int NewDescriptor();

  // From now on the other end writes the area of this descriptor.
  Status Receive(Socket descriptor);

  // The body that the other end wrote; kInvalidArgument if its area is not that large.
  Result<Body> Received(size_t bytes) const;

 private:
  std::shared_ptr<SharedArea> written_;
  std::shared_ptr<SharedArea> read_;
  bool is_known_ = false;  // To the other end.
};

}  // namespace embery
