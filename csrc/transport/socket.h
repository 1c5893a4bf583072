// Sockets: owned descriptors, addresses, and reads and writes that do not block.
//
// Thread-safety: functions on one socket are for one thread at a time. Ownership: a Socket closes
// its descriptor.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"

namespace embery {

class Socket {
 public:
  Socket() = default;
  explicit Socket(int fd) : fd_(fd) {}
  Socket(Socket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Socket& operator=(Socket&& other) noexcept;
  ~Socket();

  int fd() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t bytes = 0;
};

// The addresses of a host name; kUnavailable if it is unknown. May block for the resolver.
Result<std::vector<SocketAddress>> Resolve(const std::string& host, uint16_t port);

// Of a Unix socket that has a name and no file; kInvalidArgument if the name is too long.
Result<SocketAddress> AbstractAddress(const std::string& name);

// "Connection refused" and the like.
std::string ErrorText(int error);

// What a read or write that does not block came to.
struct Transfer {
  enum class End : uint8_t { kDone, kWouldBlock, kClosed };
  End end;
  size_t bytes;
  int error;  // For kClosed: 0 if the other end closed.
};

// Reads until `to` is full. A descriptor that comes along becomes `*passed`, if that is given.
Transfer ReadInto(int fd, std::span<std::byte> to, Socket* passed = nullptr);

// Bytes to send, in pieces, of which some are sent.
class Outgoing {
 public:
  void Clear();
  void Add(std::span<const std::byte> piece);
  // Lets a descriptor go along, to a process on this machine; it must stay open until sent.
  void Pass(int descriptor) { passed_ = descriptor; }
  bool empty() const { return next_ == pieces_.size(); }

  // Sends until all is sent, or all but what lies beyond the first `bytes_max` of the whole.
  Transfer Send(int fd, size_t bytes_max = SIZE_MAX);

 private:
  void Skip(size_t bytes);

  std::vector<iovec> pieces_;
  size_t next_ = 0;
  size_t sent_ = 0;
  int passed_ = -1;
};

}  // namespace embery
