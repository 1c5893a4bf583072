#include "transport/socket.h"

#include <netdb.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstddef>
#include <cstring>
#include <system_error>

namespace embery {

Socket& Socket::operator=(Socket&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

Socket::~Socket() {
  if (fd_ >= 0) close(fd_);
}

std::string ErrorText(int error) { return std::generic_category().message(error); }

Result<std::vector<SocketAddress>> Resolve(const std::string& host, uint16_t port) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found);
  if (error != 0) {
    return Status::Unavailable("unknown host '" + host + "' (" + gai_strerror(error) +
                               "); give its name or address");
  }
  std::vector<SocketAddress> addresses;
  for (const addrinfo* at = found; at != nullptr; at = at->ai_next) {
    SocketAddress address;
    std::memcpy(&address.storage, at->ai_addr, at->ai_addrlen);
    address.bytes = at->ai_addrlen;
    addresses.push_back(address);
  }
  freeaddrinfo(found);
  return addresses;
}

Result<SocketAddress> AbstractAddress(const std::string& name) {
  SocketAddress address;
  auto* local = reinterpret_cast<sockaddr_un*>(&address.storage);
  // An abstract name begins with a zero.
  if (name.empty() || name.size() >= sizeof(local->sun_path)) {
    return Status::InvalidArgument("the name of a Unix socket has 1 to " +
                                   std::to_string(sizeof(local->sun_path) - 1) +
                                   " characters, got " + std::to_string(name.size()));
  }
  local->sun_family = AF_UNIX;
  std::memcpy(local->sun_path + 1, name.data(), name.size());
  address.bytes = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  return address;
}

namespace {

// Room for one descriptor beside a message.
union Control {
  char bytes[CMSG_SPACE(sizeof(int))];
  cmsghdr aligned;
};

// As recv; of descriptors that come along the first goes to `passed`, and the system drops others.
ssize_t ReceiveWithDescriptor(int fd, std::span<std::byte> to, Socket& passed) {
  Control control;
  iovec part{to.data(), to.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.bytes;
  message.msg_controllen = CMSG_LEN(sizeof(int));
  const ssize_t bytes = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
  const cmsghdr* along = bytes < 0 ? nullptr : CMSG_FIRSTHDR(&message);
  if (along != nullptr && along->cmsg_level == SOL_SOCKET && along->cmsg_type == SCM_RIGHTS &&
      along->cmsg_len == CMSG_LEN(sizeof(int))) {
    int descriptor;
    std::memcpy(&descriptor, CMSG_DATA(along), sizeof(descriptor));
    passed = Socket(descriptor);
  }
  return bytes;
}

}  // namespace

Transfer ReadInto(int fd, std::span<std::byte> to, Socket* passed) {
  size_t got = 0;
  while (got < to.size()) {
    const auto rest = to.subspan(got);
    const ssize_t bytes = passed == nullptr ? recv(fd, rest.data(), rest.size(), 0)
                                            : ReceiveWithDescriptor(fd, rest, *passed);
    if (bytes > 0) {
      got += static_cast<size_t>(bytes);
    } else if (bytes == 0) {
      return {Transfer::End::kClosed, got, 0};
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      return {Transfer::End::kWouldBlock, got, 0};
    } else if (errno != EINTR) {
      return {Transfer::End::kClosed, got, errno};
    }
  }
  return {Transfer::End::kDone, got, 0};
}

void Outgoing::Clear() {
  pieces_.clear();
  next_ = 0;
  sent_ = 0;
  passed_ = -1;
}

void Outgoing::Add(std::span<const std::byte> piece) {
  // A message to send is not written to, but its type in iovec serves reading as well.
  if (!piece.empty()) pieces_.push_back({const_cast<std::byte*>(piece.data()), piece.size()});
}

Transfer Outgoing::Send(int fd, size_t bytes_max) {
  size_t sent = 0;
  while (!empty() && sent_ < bytes_max) {
    msghdr message{};
    message.msg_iov = &pieces_[next_];
    message.msg_iovlen = std::min<size_t>(pieces_.size() - next_, IOV_MAX);
    iovec part;
    if (bytes_max != SIZE_MAX) {
      part = {pieces_[next_].iov_base, std::min(pieces_[next_].iov_len, bytes_max - sent_)};
      message.msg_iov = &part;
      message.msg_iovlen = 1;
    }
    Control control{};
    if (passed_ >= 0) {
      message.msg_control = control.bytes;
      message.msg_controllen = sizeof(control.bytes);
      cmsghdr* along = CMSG_FIRSTHDR(&message);
      along->cmsg_level = SOL_SOCKET;
      along->cmsg_type = SCM_RIGHTS;
      along->cmsg_len = CMSG_LEN(sizeof(int));
      std::memcpy(CMSG_DATA(along), &passed_, sizeof(passed_));
    }
    const ssize_t bytes = sendmsg(fd, &message, MSG_NOSIGNAL);
    if (bytes < 0) {
      if (errno == EINTR) continue;
      if (errno == EAGAIN || errno == EWOULDBLOCK) return {Transfer::End::kWouldBlock, sent, 0};
      return {Transfer::End::kClosed, sent, errno};
    }
    passed_ = -1;
    sent += static_cast<size_t>(bytes);
    sent_ += static_cast<size_t>(bytes);
    Skip(static_cast<size_t>(bytes));
  }
  return {Transfer::End::kDone, sent, 0};
}

void Outgoing::Skip(size_t bytes) {
  while (bytes > 0) {
    iovec& piece = pieces_[next_];
    const size_t of_piece = std::min(bytes, piece.iov_len);
    piece.iov_base = static_cast<std::byte*>(piece.iov_base) + of_piece;
    piece.iov_len -= of_piece;
    bytes -= of_piece;
    if (piece.iov_len == 0) ++next_;
  }
}

}  // namespace embery
