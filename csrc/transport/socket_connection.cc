#include "transport/socket_connection.h"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "transport/shared_areas.h"
#include "wire/messages.h"

namespace embery {
namespace {

// Read at a time: what is read is used while the nearest caches still hold it.
constexpr size_t kReadBytesMax = size_t{256} << 10;

class SocketConnection final : public Connection {
 public:
  SocketConnection(Socket socket, std::string name, std::shared_ptr<BodyPool> pool, Sharing sharing)
      : socket_(std::move(socket)), name_(std::move(name)), pool_(std::move(pool)) {
    if (sharing == Sharing::kMemory) areas_ = std::make_unique<SharedAreas>();
  }

  std::byte* Place(size_t bytes) override {
    return IsShared(bytes) ? areas_->Place(bytes) : nullptr;
  }

  Status Start(FrameType type, Pieces body, size_t ready_bytes) override {
    size_t bytes = 0;
    for (const auto& piece : body) bytes += piece.size();
    EncodeHeader({type, ++request_, static_cast<uint32_t>(bytes)}, header_out_.data());
    outgoing_.Clear();
    outgoing_.Add(header_out_);
    body_bytes_ = bytes;
    if (IsShared(bytes)) {
      to_place_.assign(body.begin(), body.end());
    } else {
      for (const auto& piece : body) outgoing_.Add(piece);
    }
    header_got_ = 0;
    body_got_ = 0;
    reply_ = Body();
    return SetReady(ready_bytes);
  }

  Status SetReady(size_t ready_bytes) override {
    const bool is_whole = ready_bytes == body_bytes_;
    if (!to_place_.empty()) {
      // The header says that the body lies in the shared memory.
      if (!is_whole) return Status::Ok();
      if (!areas_->Put(to_place_)) return NoMemory("request", body_bytes_);
      outgoing_.Pass(areas_->NewDescriptor());
      to_place_.clear();
    }
    const Transfer sent =
        outgoing_.Send(socket_.fd(), is_whole ? SIZE_MAX : kHeaderBytes + ready_bytes);
    return sent.end == Transfer::End::kClosed ? Closed(sent.error) : Status::Ok();
  }

  Result<bool> Advance() override {
    if (!outgoing_.empty()) {
      EMBERY_RETURN_IF_ERROR(SetReady(body_bytes_));
      // A server reads a request to its end before it answers.
      if (!outgoing_.empty()) return false;
    }
    if (header_got_ < kHeaderBytes) {
      const auto rest = std::span(header_in_).subspan(header_got_);
      Socket passed;
      const Transfer read = ReadInto(socket_.fd(), rest, areas_ == nullptr ? nullptr : &passed);
      header_got_ += read.bytes;
      if (passed) EMBERY_RETURN_IF_ERROR(areas_->Receive(std::move(passed)));
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
  uint64_t bytes_sent() const override { return kHeaderBytes + body_bytes_; }

 private:
  bool IsShared(size_t body_bytes) const {
    return areas_ != nullptr && body_bytes > SharedAreas::kInlineBytesMax;
  }

  Status Closed(int error) const {
    return Status::Unavailable(name_ + " closed the connection" +
                               (error == 0 ? std::string() : " (" + ErrorText(error) + ")"));
  }

  static Status NoMemory(const char* what, size_t bytes) {
    return Status::ResourceExhausted("no memory for a " + std::string(what) + " of " +
                                     std::to_string(bytes) + " bytes");
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
    const size_t bytes = header.value().body_bytes;
    if (IsShared(bytes)) {
      Result<Body> received = areas_->Received(bytes);
      if (!received.ok()) return Status::Internal(name_ + ": " + received.status().message());
      reply_ = std::move(received).value();
      body_got_ = bytes;
      return Status::Ok();
    }
    reply_ = Body::Take(*pool_, bytes);
    return bytes > 0 && reply_.data() == nullptr ? NoMemory("reply", bytes) : Status::Ok();
  }

  const Socket socket_;
  const std::string name_;
  const std::shared_ptr<BodyPool> pool_;
  std::unique_ptr<SharedAreas> areas_;  // Null if all bodies go through the socket.
  uint64_t request_ = 0;
  size_t body_bytes_ = 0;
  std::array<std::byte, kHeaderBytes> header_out_;
  Outgoing outgoing_;
  std::vector<std::span<const std::byte>> to_place_;  // Into the shared memory, when all is ready.
  std::array<std::byte, kHeaderBytes> header_in_;
  size_t header_got_ = 0;
  Body reply_;
  size_t body_got_ = 0;
};

}  // namespace

std::unique_ptr<Connection> MakeSocketConnection(Socket socket, std::string name,
                                                 std::shared_ptr<BodyPool> pool, Sharing sharing) {
  return std::make_unique<SocketConnection>(std::move(socket), std::move(name), std::move(pool),
                                            sharing);
}

}  // namespace embery
