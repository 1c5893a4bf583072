#include "transport/rdma_connection.h"

#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <utility>

#include "transport/rdma_endpoint.h"
#include "transport/socket.h"
#include "wire/messages.h"

namespace embery {
namespace {

// A reply that comes sooner is not worth going to sleep for.
constexpr std::chrono::microseconds kSpin{20};
// While a reply is awaited the peer is probed this often.
constexpr itimerspec kProbeInterval{{1, 0}, {1, 0}};

class RdmaConnection final : public Connection {
 public:
  static Result<std::unique_ptr<RdmaConnection>> Make(
      const std::shared_ptr<const RdmaDevice>& device, std::string name) {
    auto made = std::unique_ptr<RdmaConnection>(new RdmaConnection(std::move(name)));
    Result<std::unique_ptr<RdmaChannel>> channel = RdmaChannel::Make(device);
    if (!channel.ok()) return channel.status();
    made->channel_ = std::move(channel).value();
    auto endpoint = RdmaEndpoint::Make(device, *made->channel_, 0);
    if (!endpoint.ok()) return endpoint.status();
    made->endpoint_ = std::move(endpoint).value();
    if (!made->epoll_ || !made->timer_) {
      return Status::ResourceExhausted("no file descriptor is left");
    }
    timerfd_settime(made->timer_.fd(), 0, &kProbeInterval, nullptr);
    epoll_event event{EPOLLIN, {}};
    epoll_ctl(made->epoll_.fd(), EPOLL_CTL_ADD, made->timer_.fd(), &event);
    epoll_ctl(made->epoll_.fd(), EPOLL_CTL_ADD, made->channel_->fd(), &event);
    return made;
  }

  RdmaEndpoint& endpoint() { return *endpoint_; }

  std::byte* Place(size_t bytes) override { return endpoint_->Place(bytes).data(); }

  Status Start(FrameType type, Pieces body, size_t ready_bytes) override {
    endpoint_->Release();
    body_bytes_ = 0;
    for (const auto& piece : body) body_bytes_ += piece.size();
    std::array<std::byte, kHeaderBytes> header;
    EncodeHeader({type, ++request_, static_cast<uint32_t>(body_bytes_)}, header.data());
    return Named(endpoint_->Send(header, body, ready_bytes));
  }

  Status SetReady(size_t ready_bytes) override { return Named(endpoint_->SetReady(ready_bytes)); }

  Result<bool> Advance() override {
    EMBERY_RETURN_IF_ERROR(Named(endpoint_->SetReady(body_bytes_)));
    if (awaited_) EMBERY_RETURN_IF_ERROR(Named(TakeEvents()));
    const Deadline spin_until = std::chrono::steady_clock::now() + kSpin;
    while (true) {
      const bool spins = std::chrono::steady_clock::now() < spin_until;
      const Result<bool> moved = spins ? endpoint_->Poll() : endpoint_->Progress();
      if (!moved.ok()) return Named(moved.status());
      if (endpoint_->incoming() != nullptr) EMBERY_RETURN_IF_ERROR(Named(CheckReply()));
      if (endpoint_->is_received()) return true;
      if (!moved.value() && !spins) break;
    }
    awaited_ = true;
    return false;
  }

  pollfd Awaited() const override { return {epoll_.fd(), POLLIN, 0}; }
  std::span<const std::byte> reply() const override { return endpoint_->body(); }
  size_t received_bytes() const override { return endpoint_->received_bytes(); }
  uint64_t bytes_sent() const override { return kHeaderBytes + body_bytes_; }

 private:
  explicit RdmaConnection(std::string name) : name_(std::move(name)) {}

  Status Named(const Status& status) const {
    if (status.ok()) return status;
    // What the server sent is not the caller's mistake.
    const bool is_malformed = status.code() == StatusCode::kInvalidArgument;
    return {is_malformed ? StatusCode::kInternal : status.code(), name_ + ": " + status.message()};
  }

  Status TakeEvents() {
    awaited_ = false;
    while (channel_->Next()) endpoint_->Disarm();
    uint64_t times = 0;
    return read(timer_.fd(), &times, sizeof(times)) > 0 ? endpoint_->Probe() : Status::Ok();
  }

  Status CheckReply() {
    const FrameHeader& header = *endpoint_->incoming();
    if (header.type != FrameType::kReply || header.request != request_) {
      return Status::InvalidArgument("it answered what it was not asked");
    }
    // A server that has no room for a request says so before it comes.
    if (!endpoint_->is_sent()) endpoint_->GiveUpSending();
    return endpoint_->Admit();
  }

  const std::string name_;
  const Socket epoll_{epoll_create1(EPOLL_CLOEXEC)};
  const Socket timer_{timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK)};
  std::unique_ptr<RdmaChannel> channel_;
  std::unique_ptr<RdmaEndpoint> endpoint_;  // Goes before its channel.
  uint64_t request_ = 0;
  size_t body_bytes_ = 0;
  bool awaited_ = false;
};

class RdmaConnector final : public Connector {
 public:
  RdmaConnector(uint16_t server, std::shared_ptr<const RdmaDevice> device, RdmaExchange exchange,
                std::vector<std::byte> hello)
      : name_("server " + std::to_string(server) + " by RDMA from " + device->name()),
        device_(std::move(device)),
        exchange_(std::move(exchange)),
        hello_(std::move(hello)) {}

  const std::string& name() const override { return name_; }

  Result<std::unique_ptr<Connection>> Open(Deadline deadline) override {
    auto made = RdmaConnection::Make(device_, name_);
    if (!made.ok()) return Named(made.status());
    std::unique_ptr<RdmaConnection> connection = std::move(made).value();
    RdmaEndpoint& endpoint = connection->endpoint();
    const auto reply = exchange_(EncodeRdmaAddress(endpoint.address()));
    if (!reply.ok()) return Named(reply.status());
    const Result<RdmaAddress> peer = DecodeRdmaAddress(reply.value());
    if (!peer.ok()) return Named(peer.status());
    EMBERY_RETURN_IF_ERROR(Named(endpoint.Connect(peer.value())));
    EMBERY_RETURN_IF_ERROR(Greet(*connection, hello_, name_, deadline));
    return std::unique_ptr<Connection>(std::move(connection));
  }

 private:
  Status Named(const Status& status) const {
    if (status.ok()) return status;
    // Another transport may do without the memory that is not to be had, here or there.
    const bool is_exhausted = status.code() == StatusCode::kResourceExhausted;
    return {is_exhausted ? StatusCode::kUnavailable : status.code(),
            name_ + ": " + status.message()};
  }

  const std::string name_;
  const std::shared_ptr<const RdmaDevice> device_;
  const RdmaExchange exchange_;
  const std::vector<std::byte> hello_;
};

}  // namespace

Result<std::unique_ptr<Connector>> MakeRdmaConnector(uint16_t server, const RdmaOptions& options,
                                                     RdmaExchange exchange, uint64_t client,
                                                     const std::string& secret) {
  Result<std::shared_ptr<const RdmaDevice>> device = RdmaDevice::Open(options);
  if (!device.ok()) return device.status();
  return std::unique_ptr<Connector>(std::make_unique<RdmaConnector>(
      server, std::move(device).value(), std::move(exchange), EncodeHello(client, secret)));
}

}  // namespace embery
