#include "transport/tcp_connection.h"

#include <netinet/tcp.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "transport/socket.h"
#include "wire/body.h"
#include "wire/messages.h"

namespace embery {
namespace {

// Read at a time: what is read is used while the nearest caches still hold it.
constexpr size_t kReadBytesMax = size_t{256} << 10;

class TcpConnection final : public Connection {
 public:
  TcpConnection(Socket socket, std::string name, std::shared_ptr<BodyPool> pool)
      : socket_(std::move(socket)), name_(std::move(name)), pool_(std::move(pool)) {}

  Status Start(FrameType type, Pieces body, size_t ready_bytes) override {
    size_t bytes = 0;
    for (const auto& piece : body) bytes += piece.size();
    EncodeHeader({type, ++request_, static_cast<uint32_t>(bytes)}, header_out_.data());
    outgoing_.Clear();
    outgoing_.Add(header_out_);
    for (const auto& piece : body) outgoing_.Add(piece);
    bytes_sent_ = kHeaderBytes + bytes;
    header_got_ = 0;
    body_got_ = 0;
    reply_ = Body();
    return SetReady(ready_bytes);
  }

  Status SetReady(size_t ready_bytes) override {
    const size_t ready = kHeaderBytes + ready_bytes;
    const Transfer sent = outgoing_.Send(socket_.fd(), ready == bytes_sent_ ? SIZE_MAX : ready);
    return sent.end == Transfer::End::kClosed ? Closed(sent.error) : Status::Ok();
  }

  Result<bool> Advance() override {
    if (!outgoing_.empty()) {
      EMBERY_RETURN_IF_ERROR(SetReady(bytes_sent_ - kHeaderBytes));
      // A server reads a request to its end before it answers.
      if (!outgoing_.empty()) return false;
    }
    if (header_got_ < kHeaderBytes) {
      const auto rest = std::span(header_in_).subspan(header_got_);
      const Transfer read = ReadInto(socket_.fd(), rest);
      header_got_ += read.bytes;
      if (read.end != Transfer::End::kDone) return Pause(read);
      EMBERY_RETURN_IF_ERROR(TakeHeader());
    }
    if (body_got_ == reply_.size()) return true;
    const std::span<std::byte> rest(reply_.data() + body_got_,
                                    std::min(reply_.size() - body_got_, kReadBytesMax));
    const Transfer read = ReadInto(socket_.fd(), rest);
    body_got_ += read.bytes;
    if (read.end != Transfer::End::kDone) return Pause(read);
    return body_got_ == reply_.size();
  }

  pollfd Awaited() const override {
    const auto events = static_cast<short>(outgoing_.empty() ? POLLIN : POLLOUT);
    return {socket_.fd(), events, 0};
  }
  std::span<const std::byte> reply() const override { return reply_.bytes(); }
  size_t received_bytes() const override { return body_got_; }
  uint64_t bytes_sent() const override { return bytes_sent_; }

 private:
  Status Closed(int error) const {
    return Status::Unavailable(name_ + " closed the connection" +
                               (error == 0 ? std::string() : " (" + ErrorText(error) + ")"));
  }

  Result<bool> Pause(const Transfer& transfer) const {
    if (transfer.end == Transfer::End::kClosed) return Closed(transfer.error);
    return false;
  }

  Status TakeHeader() {
    const Result<FrameHeader> header = DecodeHeader(header_in_);
    if (!header.ok()) return Status::Internal(name_ + ": " + header.status().message());
    if (header.value().type != FrameType::kReply || header.value().request != request_) {
      return Status::Internal(name_ + " answered what it was not asked");
    }
    reply_ = Body::Take(*pool_, header.value().body_bytes);
    if (reply_.size() > 0 && reply_.data() == nullptr) {
      return Status::ResourceExhausted("no memory for a reply of " + std::to_string(reply_.size()) +
                                       " bytes");
    }
    return Status::Ok();
  }

  const Socket socket_;
  const std::string name_;
  const std::shared_ptr<BodyPool> pool_;
  uint64_t request_ = 0;
  uint64_t bytes_sent_ = 0;
  std::array<std::byte, kHeaderBytes> header_out_;
  Outgoing outgoing_;
  std::array<std::byte, kHeaderBytes> header_in_;
  size_t header_got_ = 0;
  Body reply_;
  size_t body_got_ = 0;
};

class TcpConnector final : public Connector {
 public:
  TcpConnector(TcpAddress address, uint64_t client, const std::string& secret)
      : address_(std::move(address)),
        hello_(EncodeHello(client, secret)),
        name_("server " + std::to_string(address_.server) + " at " + address_.host + ":" +
              std::to_string(address_.port)) {}

  const std::string& name() const override { return name_; }

  Result<std::unique_ptr<Connection>> Open(Deadline deadline) override {
    const Result<std::vector<SocketAddress>> addresses = Resolve(address_.host, address_.port);
    if (!addresses.ok()) return Status::Unavailable(name_ + ": " + addresses.status().message());
    Status failure = Status::Unavailable(name_ + " has no address");
    for (const SocketAddress& to : addresses.value()) {
      Result<Socket> socket = ConnectTo(to, deadline);
      if (!socket.ok()) {
        failure = socket.status();
        continue;
      }
      auto connection = std::make_unique<TcpConnection>(std::move(socket).value(), name_, pool_);
      EMBERY_RETURN_IF_ERROR(Greet(*connection, deadline));
      return std::unique_ptr<Connection>(std::move(connection));
    }
    return failure;
  }

 private:
  Result<Socket> ConnectTo(const SocketAddress& to, Deadline deadline) const {
    Socket made(socket(to.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!made) return Status::Unavailable(name_ + ": no socket (" + ErrorText(errno) + ")");
    const int on = 1;
    setsockopt(made.fd(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (!address_.bind.empty()) EMBERY_RETURN_IF_ERROR(BindLocally(made));
    if (connect(made.fd(), reinterpret_cast<const sockaddr*>(&to.storage), to.bytes) != 0 &&
        errno != EINPROGRESS) {
      return Status::Unavailable(name_ + " cannot be reached (" + ErrorText(errno) + ")");
    }
    const pollfd awaited{made.fd(), POLLOUT, 0};
    if (!WaitForAny({&awaited, 1}, deadline)) return TooLate();
    int error = 0;
    socklen_t bytes = sizeof(error);
    getsockopt(made.fd(), SOL_SOCKET, SO_ERROR, &error, &bytes);
    if (error == 0) return made;
    return Status::Unavailable(name_ + " cannot be reached (" + ErrorText(error) + ")");
  }

  Status BindLocally(const Socket& made) const {
    const Result<std::vector<SocketAddress>> local = Resolve(address_.bind, 0);
    if (!local.ok()) return local.status();
    const SocketAddress& from = local.value().front();
    if (bind(made.fd(), reinterpret_cast<const sockaddr*>(&from.storage), from.bytes) == 0) {
      return Status::Ok();
    }
    return Status::Unavailable("cannot connect from the local address " + address_.bind + " (" +
                               ErrorText(errno) + ")");
  }

  Status Greet(TcpConnection& connection, Deadline deadline) const {
    const std::span<const std::byte> body[] = {hello_};
    EMBERY_RETURN_IF_ERROR(connection.Start(FrameType::kHello, body, hello_.size()));
    while (true) {
      const Result<bool> done = connection.Advance();
      if (!done.ok()) return done.status();
      if (done.value()) break;
      const pollfd awaited = connection.Awaited();
      if (!WaitForAny({&awaited, 1}, deadline)) return TooLate();
    }
    const Result<ReplyMessage> reply = DecodeReply(connection.reply());
    if (!reply.ok()) return Status::Internal(name_ + ": " + reply.status().message());
    if (reply.value().head.code == StatusCode::kOk) return Status::Ok();
    return {reply.value().head.code, name_ + ": " + std::string(reply.value().text)};
  }

  Status TooLate() const {
    return {StatusCode::kDeadlineExceeded, name_ + " did not let the client in in time"};
  }

  const TcpAddress address_;
  const std::vector<std::byte> hello_;
  const std::string name_;
  const std::shared_ptr<BodyPool> pool_ = std::make_shared<BodyPool>();
};

}  // namespace

std::unique_ptr<Connector> MakeTcpConnector(const TcpAddress& address, uint64_t client,
                                            const std::string& secret) {
  return std::make_unique<TcpConnector>(address, client, secret);
}

}  // namespace embery
