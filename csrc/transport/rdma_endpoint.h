// One end of a reliable RDMA connection that carries frames, one at a time each way, in turn.
//
// A frame begins with a SEND of its header, and of its body if that is small. A large body is then
// written into the peer's inbox, memory that the peer has registered and told of; every mark, a
// write with an immediate, says how many of its bytes are there. A receiver whose inbox is too
// small for the body that a header speaks of first registers a larger one, and tells of it.
//
// What flows is bounded by turns, so nothing but data is sent on a busy connection: a frame is one
// SEND and at most kMarksMax marks, an inbox told of is one SEND more, and an end has receives
// posted for all of them again before it sends a frame of its own.
//
// Thread-safety: used by one thread at a time. Ownership: owns its queues and memory, and shares
// the device; borrows the channel; the pieces of a frame are the caller's until it is sent.
// Invariants: memory is written again only after the device has done with it; an end whose Progress
// failed is of no more use.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/status.h"
#include "transport/connection.h"
#include "transport/rdma_device.h"
#include "wire/frame.h"

namespace embery {

// What one end has to know of the other.
struct RdmaAddress {
  uint32_t qp;
  uint32_t sequence;  // Of its first packet.
  uint32_t mtu;
  verbs::Gid gid;
};

// docs/formats/wire.md says how it is laid out.
std::vector<std::byte> EncodeRdmaAddress(const RdmaAddress& address);
Result<RdmaAddress> DecodeRdmaAddress(std::span<const std::byte> bytes);

// Completion events of some endpoints; its descriptor is readable when there is one.
class RdmaChannel {
 public:
  static Result<std::unique_ptr<RdmaChannel>> Make(std::shared_ptr<const RdmaDevice> device);
  ~RdmaChannel();
  RdmaChannel(const RdmaChannel&) = delete;
  RdmaChannel& operator=(const RdmaChannel&) = delete;

  int fd() const { return channel_->fd; }
  verbs::Channel* handle() const { return channel_; }

  // The id of an endpoint that has something to do; nothing if there is none now.
  std::optional<uint64_t> Next() const;

 private:
  RdmaChannel(std::shared_ptr<const RdmaDevice> device, verbs::Channel* channel)
      : device_(std::move(device)), channel_(channel) {}

  const std::shared_ptr<const RdmaDevice> device_;
  verbs::Channel* const channel_;
};

class RdmaEndpoint {
 public:
  // Largest body that goes with its header.
  static constexpr size_t kSmallBytesMax = (size_t{16} << 10) - kHeaderBytes;

  // Events come to the channel with the id.
  static Result<std::unique_ptr<RdmaEndpoint>> Make(std::shared_ptr<const RdmaDevice> device,
                                                    const RdmaChannel& channel, uint64_t id);
  ~RdmaEndpoint();
  RdmaEndpoint(const RdmaEndpoint&) = delete;
  RdmaEndpoint& operator=(const RdmaEndpoint&) = delete;

  RdmaAddress address() const;
  // Called once, before anything is sent.
  Status Connect(const RdmaAddress& peer);

  // ---- outgoing: requires is_sent() and that the frame that came in is released.

  // Memory in which the next body is not copied on its way; empty if it is small, or while the last
  // one may still be read from there.
  std::span<std::byte> Place(size_t bytes);
  // Keeps that memory when the endpoint has gone.
  std::shared_ptr<const void> place_owner() const { return outbox_; }
  Status Send(std::span<const std::byte, kHeaderBytes> header, Pieces body, size_t ready_bytes);
  Status SetReady(size_t ready_bytes);
  bool is_sent() const { return sending_ == Sending::kNothing; }
  // The peer answered a frame that it did not make room for.
  void GiveUpSending() { sending_ = Sending::kNothing; }

  // ---- incoming

  // The header of the frame that is coming in; null between frames.
  const FrameHeader* incoming() const { return incoming_ ? &*incoming_ : nullptr; }
  // Makes room for its body; kResourceExhausted if there is none, and the peer may then be answered
  // all the same.
  Status Admit();
  // Its body, and how much of it is there. Valid until the frame is released.
  std::span<const std::byte> body() const { return body_; }
  size_t received_bytes() const { return received_; }
  bool is_received() const { return incoming_ && received_ == incoming_->body_bytes; }
  void Release();

  // ---- progress

  // Takes what has completed and goes on; whether there was anything. kUnavailable: the peer has
  // gone; kInvalidArgument: it sent what makes no sense.
  Result<bool> Poll();
  // From here on, an event follows what completes; a Poll after it misses nothing.
  Status Arm();
  // As Poll; if there was nothing, an event will come when there is.
  Result<bool> Progress();
  // An event came: only Arm brings another one.
  void Disarm() { are_sends_armed_ = are_receives_armed_ = false; }
  // Sends nothing, so that a peer that has gone is noticed.
  Status Probe();

 private:
  static constexpr size_t kMessageBytes = kHeaderBytes + kSmallBytesMax;
  static constexpr uint32_t kMarksMax = 8;
  static constexpr uint32_t kReceives = 14;
  // Slots for messages, after those to receive in.
  static constexpr uint32_t kFrameSlot = kReceives;
  static constexpr uint32_t kInboxSlot = kReceives + 1;
  static constexpr uint32_t kSlots = kReceives + 2;
  static constexpr uint32_t kSendsMax = 64;
  static_assert(kReceives >= kMarksMax + 2);

  enum class Sending : uint8_t { kNothing, kHeader, kBody };

  // Memory that a peer may write to, as it is told of.
  struct Inbox {
    uint64_t address;
    uint64_t bytes;
    uint32_t key;
    uint32_t zero;
  };
  static_assert(sizeof(Inbox) == 24);

  explicit RdmaEndpoint(std::shared_ptr<const RdmaDevice> device) : device_(std::move(device)) {}
  Status MakeQueues(const RdmaChannel& channel, uint64_t id);
  Status Change(verbs::QpChange change, int fields);

  std::span<std::byte> Slot(uint32_t slot) const;
  Status PostReceive(uint32_t slot);
  Status PostMessage(verbs::SendKind kind, uint32_t slot, size_t bytes);
  Status Post(verbs::SendRequest request, std::span<const std::byte> data, uint32_t local_key);
  Status Grow(Slab& slab, size_t bytes, Slab::Access access) const;

  Status GoOn();
  Status SendHeader();
  Status WriteBody();
  void CopyOut(std::span<std::byte> to);

  Status CheckSuccess(const verbs::Completion& completion) const;
  Status Take(const verbs::Completion& completion);
  Status TakeFrame(uint32_t slot, size_t bytes);
  Status TakeInbox(uint32_t slot, size_t bytes);
  Status TakeMark(uint32_t bytes);
  // The front of the inbox; empty if that is too small.
  std::span<const std::byte> InboxFor(size_t bytes) const;

  Result<size_t> PollSends();
  bool IsArmed() const;

  const std::shared_ptr<const RdmaDevice> device_;
  verbs::Cq* send_cq_ = nullptr;  // Of no interest, so without events, unless sending waits for it.
  verbs::Cq* receive_cq_ = nullptr;
  verbs::Qp* qp_ = nullptr;
  uint32_t sequence_ = 0;
  Slab messages_;
  bool are_sends_armed_ = false;
  bool are_receives_armed_ = false;

  // Outgoing.
  Sending sending_ = Sending::kNothing;
  std::array<std::byte, kHeaderBytes> header_{};
  std::vector<std::span<const std::byte>> pieces_;  // What is not copied yet.
  size_t next_piece_ = 0;
  size_t body_bytes_ = 0;
  size_t ready_ = 0;
  size_t written_ = 0;
  uint32_t in_flight_ = 0;  // Posted, and not known to be complete.
  std::shared_ptr<Slab> outbox_ = std::make_shared<Slab>();
  Inbox peer_inbox_{};

  // Incoming.
  std::optional<FrameHeader> incoming_;
  uint32_t held_slot_ = 0;  // Where its header came in.
  std::span<const std::byte> body_;
  size_t received_ = 0;
  Slab inbox_;
};

}  // namespace embery
