#include "transport/socket.h"

#include <netdb.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
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

Transfer ReadInto(int fd, std::span<std::byte> to) {
  size_t got = 0;
  while (got < to.size()) {
    const ssize_t bytes = recv(fd, to.data() + got, to.size() - got, 0);
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
    const ssize_t bytes = sendmsg(fd, &message, MSG_NOSIGNAL);
    if (bytes < 0) {
      if (errno == EINTR) continue;
      if (errno == EAGAIN || errno == EWOULDBLOCK) return {Transfer::End::kWouldBlock, sent, 0};
      return {Transfer::End::kClosed, sent, errno};
    }
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
