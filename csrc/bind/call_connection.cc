#include "bind/call_connection.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#include "base/memory.h"
#include "base/mutex.h"
#include "bind/callable.h"

namespace py = pybind11;

namespace embery {
namespace {

// One request under way; shared by the connection and the thread that runs it.
struct Errand {
  ~Errand() {
    if (done_fd >= 0) close(done_fd);
  }
  int done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  std::vector<std::byte> frame;
  Mutex mutex;
  bool done GUARDED_BY(mutex) = false;
  Status status GUARDED_BY(mutex);
  Region reply GUARDED_BY(mutex);
  size_t reply_bytes GUARDED_BY(mutex) = 0;
};

// The body of the reply, in memory aligned for its arrays.
Status TakeReply(std::span<const std::byte> reply, Region& to, size_t& bytes) {
  const auto view = DecodeFrame(reply);
  if (!view.ok()) return view.status();
  bytes = view.value().body.size();
  to = Region::Allocate(std::max<size_t>(bytes, 1));
  if (!to) return Status::ResourceExhausted("no memory for a reply");
  std::memcpy(to.data(), view.value().body.data(), bytes);
  return Status::Ok();
}

void Run(const Callable& call, Errand& errand) {
  size_t bytes = 0;
  Region reply;
  Status status = call.Call(errand.frame, [&](std::span<const std::byte> frame) {
    return TakeReply(frame, reply, bytes);
  });
  const MutexLock lock(errand.mutex);
  errand.status = std::move(status);
  errand.reply = std::move(reply);
  errand.reply_bytes = bytes;
  errand.done = true;
  eventfd_write(errand.done_fd, 1);
}

class CallConnection final : public Connection {
 public:
  CallConnection(std::shared_ptr<const Callable> call, std::string name)
      : call_(std::move(call)), name_(std::move(name)) {}

  Status Start(FrameType type, Pieces body, size_t ready_bytes) override {
    errand_ = std::make_shared<Errand>();
    if (errand_->done_fd < 0) return Status::ResourceExhausted("no file descriptor is left");
    type_ = type;
    pieces_.assign(body.begin(), body.end());
    body_bytes_ = 0;
    for (const auto& piece : pieces_) body_bytes_ += piece.size();
    reply_ = {};
    return SetReady(ready_bytes);
  }

  Status SetReady(size_t ready_bytes) override {
    if (ready_bytes < body_bytes_ || !errand_->frame.empty()) return Status::Ok();
    std::vector<std::byte>& frame = errand_->frame;
    frame.reserve(kHeaderBytes + body_bytes_);
    frame.resize(kHeaderBytes);
    EncodeHeader({type_, ++request_, static_cast<uint32_t>(body_bytes_)}, frame.data());
    for (const auto& piece : pieces_) frame.insert(frame.end(), piece.begin(), piece.end());
    std::thread([call = call_, errand = errand_] { Run(*call, *errand); }).detach();
    return Status::Ok();
  }

  Result<bool> Advance() override {
    const MutexLock lock(errand_->mutex);
    if (!errand_->done) return false;
    if (!errand_->status.ok()) {
      return Status(errand_->status.code(), name_ + ": " + errand_->status.message());
    }
    reply_ = {errand_->reply.data(), errand_->reply_bytes};
    return true;
  }

  pollfd Awaited() const override { return {errand_->done_fd, POLLIN, 0}; }
  std::span<const std::byte> reply() const override { return reply_; }
  size_t received_bytes() const override { return reply_.size(); }
  uint64_t bytes_sent() const override { return errand_->frame.size(); }

 private:
  const std::shared_ptr<const Callable> call_;
  const std::string name_;
  FrameType type_ = FrameType::kHello;
  std::vector<std::span<const std::byte>> pieces_;
  size_t body_bytes_ = 0;
  uint64_t request_ = 0;
  std::shared_ptr<Errand> errand_;
  std::span<const std::byte> reply_;
};

class CallConnector final : public Connector {
 public:
  CallConnector(uint16_t server, const py::function& call)
      : call_(std::make_shared<const Callable>(call)),
        name_("server " + std::to_string(server) + " (in band)") {}

  Result<std::unique_ptr<Connection>> Open(Deadline) override {
    return std::unique_ptr<Connection>(std::make_unique<CallConnection>(call_, name_));
  }
  const std::string& name() const override { return name_; }

 private:
  const std::shared_ptr<const Callable> call_;
  const std::string name_;
};

}  // namespace

std::unique_ptr<Connector> MakeCallConnector(uint16_t server, const py::function& call) {
  return std::make_unique<CallConnector>(server, call);
}

}  // namespace embery
