#include "transport/rdma_endpoint.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <sys/random.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "transport/socket.h"

namespace embery {
namespace {

constexpr uint32_t kAddressVersion = 1;

struct RawAddress {
  uint32_t version;
  uint32_t qp;
  uint32_t sequence;
  uint32_t mtu;
  verbs::Gid gid;
};
static_assert(sizeof(RawAddress) == 32);

// One write: large enough for the wire, small enough that copying goes on beside it.
constexpr size_t kWriteBytes = size_t{256} << 10;
constexpr uint32_t kSequenceMask = (1u << 24) - 1;
constexpr uint8_t kHopLimit = 64;
// An unanswered packet is sent again after 4.096 us * 2^kTimeout = 268 ms, so a peer that has gone
// is given up after about two seconds. Seven retries, the most there can be, are endless ones to
// Linux's software RoCE.
constexpr uint8_t kTimeout = 16;
constexpr uint8_t kRetries = 6;
// How long a peer that breaks its turn, and finds no receive posted, is put off (0.64 ms), and how
// often.
constexpr uint8_t kReceiverWait = 12;
constexpr uint8_t kReceiverRetries = 6;

Status Failed(const char* what, int error) {
  return Status::Unavailable(std::string(what) + " failed (" + ErrorText(error) + ")");
}

Status Malformed(const std::string& what) {
  return Status::InvalidArgument("malformed RDMA message: " + what);
}

std::span<const verbs::Completion> PollQueue(verbs::Cq* cq, std::span<verbs::Completion> room) {
  const int count = cq->context->operations.poll_cq(cq, static_cast<int>(room.size()), room.data());
  return room.first(static_cast<size_t>(std::max(count, 0)));
}

size_t RoundUp(size_t value, size_t unit) { return (value + unit - 1) / unit * unit; }

}  // namespace

// ---- addresses ----------------------------------------------------------------------------------

std::vector<std::byte> EncodeRdmaAddress(const RdmaAddress& address) {
  const RawAddress raw{kAddressVersion, address.qp, address.sequence, address.mtu, address.gid};
  const auto bytes = std::as_bytes(std::span(&raw, 1));
  return {bytes.begin(), bytes.end()};
}

Result<RdmaAddress> DecodeRdmaAddress(std::span<const std::byte> bytes) {
  RawAddress raw;
  if (bytes.size() != sizeof(raw)) {
    return Status::InvalidArgument("an RDMA address has " + std::to_string(sizeof(raw)) +
                                   " bytes, got " + std::to_string(bytes.size()));
  }
  std::memcpy(&raw, bytes.data(), sizeof(raw));
  if (raw.version != kAddressVersion || raw.qp > kSequenceMask || raw.sequence > kSequenceMask ||
      raw.mtu < 1 || raw.mtu > 5) {
    return Status::InvalidArgument("an RDMA address makes no sense, or is of another version");
  }
  return RdmaAddress{raw.qp, raw.sequence, raw.mtu, raw.gid};
}

// ---- events -------------------------------------------------------------------------------------

Result<std::unique_ptr<RdmaChannel>> RdmaChannel::Make(std::shared_ptr<const RdmaDevice> device) {
  verbs::Channel* channel = device->library().create_comp_channel(device->context());
  if (channel == nullptr) return Failed("ibv_create_comp_channel", errno);
  fcntl(channel->fd, F_SETFL, fcntl(channel->fd, F_GETFL) | O_NONBLOCK);
  return std::unique_ptr<RdmaChannel>(new RdmaChannel(std::move(device), channel));
}

RdmaChannel::~RdmaChannel() { device_->library().destroy_comp_channel(channel_); }

std::optional<uint64_t> RdmaChannel::Next() const {
  verbs::Cq* cq = nullptr;
  void* user = nullptr;
  if (device_->library().get_cq_event(channel_, &cq, &user) != 0) return std::nullopt;
  // A queue whose events are not acknowledged cannot be destroyed.
  device_->library().ack_cq_events(cq, 1);
  return reinterpret_cast<uintptr_t>(user);
}

// ---- life cycle ---------------------------------------------------------------------------------

Result<std::unique_ptr<RdmaEndpoint>> RdmaEndpoint::Make(std::shared_ptr<const RdmaDevice> device,
                                                         const RdmaChannel& channel, uint64_t id) {
  std::unique_ptr<RdmaEndpoint> made(new RdmaEndpoint(std::move(device)));
  EMBERY_RETURN_IF_ERROR(made->MakeQueues(channel, id));
  return made;
}

Status RdmaEndpoint::MakeQueues(const RdmaChannel& channel, uint64_t id) {
  if (getrandom(&sequence_, sizeof(sequence_), 0) != sizeof(sequence_)) {
    return Failed("getrandom", errno);
  }
  sequence_ &= kSequenceMask;
  Result<Slab> messages = Slab::Make(device_, kSlots * kMessageBytes, Slab::Access::kLocal);
  if (!messages.ok()) return messages.status();
  messages_ = std::move(messages).value();
  const verbs::Library& library = device_->library();
  const auto make_cq = [&](uint32_t entries) {
    // The library keeps a pointer of its caller's, which here is a number.
    auto* user = reinterpret_cast<void*>(uintptr_t{id});  // NOLINT(performance-no-int-to-ptr)
    return library.create_cq(device_->context(), static_cast<int>(entries), user, channel.handle(),
                             0);
  };
  send_cq_ = make_cq(kSendsMax + 1);
  receive_cq_ = make_cq(kReceives + 1);
  if (send_cq_ == nullptr || receive_cq_ == nullptr) return Failed("ibv_create_cq", errno);
  verbs::QpInit init{};
  init.send_cq = send_cq_;
  init.receive_cq = receive_cq_;
  init.capacity = {kSendsMax, kReceives, 1, 1, 0};
  init.type = verbs::QpType::kReliableConnection;
  qp_ = library.create_qp(device_->domain(), &init);
  if (qp_ == nullptr) return Failed("ibv_create_qp", errno);
  verbs::QpChange change{};
  change.state = verbs::QpState::kInit;
  change.port = static_cast<uint8_t>(device_->gid().port);
  change.access = verbs::kAccessRemoteWrite;
  EMBERY_RETURN_IF_ERROR(
      Change(change, verbs::kChangePartition | verbs::kChangePort | verbs::kChangeAccess));
  for (uint32_t slot = 0; slot < kReceives; ++slot) EMBERY_RETURN_IF_ERROR(PostReceive(slot));
  return Status::Ok();
}

RdmaEndpoint::~RdmaEndpoint() {
  const verbs::Library& library = device_->library();
  if (qp_ != nullptr) library.destroy_qp(qp_);
  if (send_cq_ != nullptr) library.destroy_cq(send_cq_);
  if (receive_cq_ != nullptr) library.destroy_cq(receive_cq_);
}

RdmaAddress RdmaEndpoint::address() const {
  return {qp_->number, sequence_, device_->mtu(), device_->gid().gid};
}

Status RdmaEndpoint::Connect(const RdmaAddress& peer) {
  verbs::QpChange change{};
  change.state = verbs::QpState::kReadyToReceive;
  change.path_mtu = std::min(peer.mtu, device_->mtu());
  change.peer_qp = peer.qp;
  change.receive_sequence = peer.sequence;
  change.reads_in_max = 1;
  change.receiver_wait = kReceiverWait;
  change.path.route.destination = peer.gid;
  change.path.route.source_index = static_cast<uint8_t>(device_->gid().index);
  change.path.route.hop_limit = kHopLimit;
  change.path.is_global = 1;
  change.path.port = static_cast<uint8_t>(device_->gid().port);
  EMBERY_RETURN_IF_ERROR(Change(change, verbs::kChangePath | verbs::kChangePathMtu |
                                            verbs::kChangePeerQp | verbs::kChangeReceiveSequence |
                                            verbs::kChangeReadsIn | verbs::kChangeReceiverWait));
  change = {};
  change.state = verbs::QpState::kReadyToSend;
  change.send_sequence = sequence_;
  change.timeout = kTimeout;
  change.retries = kRetries;
  change.receiver_retries = kReceiverRetries;
  change.reads_out_max = 1;
  return Change(change, verbs::kChangeSendSequence | verbs::kChangeTimeout | verbs::kChangeRetries |
                            verbs::kChangeReceiverRetries | verbs::kChangeReadsOut);
}

Status RdmaEndpoint::Change(verbs::QpChange change, int fields) {
  const int error = device_->library().modify_qp(qp_, &change, fields | verbs::kChangeState);
  return error == 0 ? Status::Ok() : Failed("ibv_modify_qp", error);
}

// ---- posting ------------------------------------------------------------------------------------

std::span<std::byte> RdmaEndpoint::Slot(uint32_t slot) const {
  return messages_.bytes().subspan(slot * kMessageBytes, kMessageBytes);
}

Status RdmaEndpoint::PostReceive(uint32_t slot) {
  const std::span<std::byte> to = Slot(slot);
  verbs::Piece piece{reinterpret_cast<uintptr_t>(to.data()), static_cast<uint32_t>(to.size()),
                     messages_.local_key()};
  verbs::ReceiveRequest request{slot, nullptr, &piece, 1};
  verbs::ReceiveRequest* bad = nullptr;
  const int error = qp_->context->operations.post_receive(qp_, &request, &bad);
  return error == 0 ? Status::Ok() : Failed("ibv_post_recv", error);
}

Status RdmaEndpoint::Post(verbs::SendRequest request, std::span<const std::byte> data,
                          uint32_t local_key) {
  verbs::Piece piece{reinterpret_cast<uintptr_t>(data.data()), static_cast<uint32_t>(data.size()),
                     local_key};
  request.pieces = &piece;
  request.piece_count = data.empty() ? 0 : 1;
  request.flags = verbs::kSendSignaled;
  verbs::SendRequest* bad = nullptr;
  const int error = qp_->context->operations.post_send(qp_, &request, &bad);
  if (error != 0) return Failed("ibv_post_send", error);
  ++in_flight_;
  return Status::Ok();
}

Status RdmaEndpoint::PostMessage(verbs::SendKind kind, uint32_t slot, size_t bytes) {
  verbs::SendRequest request{};
  request.kind = kind;
  return Post(request, Slot(slot).first(bytes), messages_.local_key());
}

Status RdmaEndpoint::Probe() {
  if (in_flight_ > 0) return Status::Ok();  // What is under way tells as much.
  verbs::SendRequest request{};
  request.kind = verbs::SendKind::kWrite;
  return Post(request, {}, 0);
}

Status RdmaEndpoint::Grow(Slab& slab, size_t bytes, Slab::Access access) const {
  if (slab.bytes().size() >= bytes) return Status::Ok();
  // Some more, so that bodies that grow bit by bit do not each need another one.
  const size_t most = std::max<size_t>(bytes, kBodyBytesMax);
  Result<Slab> larger = Slab::Make(device_, std::min(bytes + bytes / 4, most), access);
  if (!larger.ok()) return larger.status();
  slab = std::move(larger).value();
  return Status::Ok();
}

// ---- outgoing -----------------------------------------------------------------------------------

std::span<std::byte> RdmaEndpoint::Place(size_t bytes) {
  if (bytes <= kSmallBytesMax || !PollSends().ok() || in_flight_ > 0) return {};
  // Without the memory, Send says so.
  if (!Grow(*outbox_, bytes, Slab::Access::kLocal).ok()) return {};
  return outbox_->bytes().first(bytes);
}

Status RdmaEndpoint::Send(std::span<const std::byte, kHeaderBytes> header, Pieces body,
                          size_t ready_bytes) {
  std::copy(header.begin(), header.end(), header_.begin());
  pieces_.assign(body.begin(), body.end());
  next_piece_ = 0;
  body_bytes_ = 0;
  for (const auto& piece : pieces_) body_bytes_ += piece.size();
  written_ = 0;
  sending_ = Sending::kHeader;
  return SetReady(ready_bytes);
}

Status RdmaEndpoint::SetReady(size_t ready_bytes) {
  ready_ = ready_bytes;
  return GoOn();
}

Status RdmaEndpoint::GoOn() {
  if (sending_ == Sending::kHeader) EMBERY_RETURN_IF_ERROR(SendHeader());
  return sending_ == Sending::kBody ? WriteBody() : Status::Ok();
}

Status RdmaEndpoint::SendHeader() {
  const bool is_small = body_bytes_ <= kSmallBytesMax;
  if (is_small && ready_ < body_bytes_) return Status::Ok();
  // The last frame's memory is needed again.
  if (in_flight_ > 0) EMBERY_RETURN_IF_ERROR(PollSends().status());
  if (in_flight_ > 0) return Status::Ok();
  if (!is_small) EMBERY_RETURN_IF_ERROR(Grow(*outbox_, body_bytes_, Slab::Access::kLocal));
  const std::span<std::byte> slot = Slot(kFrameSlot);
  std::copy(header_.begin(), header_.end(), slot.begin());
  const size_t with_header = is_small ? body_bytes_ : 0;
  CopyOut(slot.subspan(kHeaderBytes, with_header));
  sending_ = is_small ? Sending::kNothing : Sending::kBody;
  return PostMessage(verbs::SendKind::kSend, kFrameSlot, kHeaderBytes + with_header);
}

Status RdmaEndpoint::WriteBody() {
  if (peer_inbox_.bytes < body_bytes_) return Status::Ok();  // It will tell of a larger one.
  const size_t mark_bytes = RoundUp(body_bytes_ / kMarksMax + 1, kWriteBytes);
  while (written_ < body_bytes_ && in_flight_ < kSendsMax) {
    const size_t bytes = std::min(kWriteBytes, body_bytes_ - written_);
    if (written_ + bytes > ready_) return Status::Ok();
    const std::span<std::byte> to = outbox_->bytes().subspan(written_, bytes);
    CopyOut(to);
    verbs::SendRequest request{};
    request.remote_address = peer_inbox_.address + written_;
    request.remote_key = peer_inbox_.key;
    written_ += bytes;
    const bool is_mark = written_ % mark_bytes == 0 || written_ == body_bytes_;
    request.kind = is_mark ? verbs::SendKind::kWriteWithImmediate : verbs::SendKind::kWrite;
    request.immediate = htonl(static_cast<uint32_t>(written_));
    EMBERY_RETURN_IF_ERROR(Post(request, to, outbox_->local_key()));
  }
  if (written_ == body_bytes_) sending_ = Sending::kNothing;
  return Status::Ok();
}

void RdmaEndpoint::CopyOut(std::span<std::byte> to) {
  while (!to.empty()) {
    std::span<const std::byte>& piece = pieces_[next_piece_];
    const size_t bytes = std::min(piece.size(), to.size());
    if (piece.data() != to.data()) std::copy_n(piece.begin(), bytes, to.begin());
    piece = piece.subspan(bytes);
    to = to.subspan(bytes);
    if (piece.empty()) ++next_piece_;
  }
}

// ---- incoming -----------------------------------------------------------------------------------

Status RdmaEndpoint::CheckSuccess(const verbs::Completion& completion) const {
  if (completion.status == verbs::CompletionStatus::kSuccess) return Status::Ok();
  return Status::Unavailable(std::string("the RDMA connection broke (") +
                             device_->library().wc_status_str(completion.status) + ")");
}

Status RdmaEndpoint::Take(const verbs::Completion& completion) {
  EMBERY_RETURN_IF_ERROR(CheckSuccess(completion));
  const auto slot = static_cast<uint32_t>(completion.id);
  const bool has_immediate = (completion.flags & verbs::kHasImmediate) != 0;
  if (completion.kind == verbs::CompletionKind::kReceived && !has_immediate) {
    return TakeFrame(slot, completion.bytes);
  }
  EMBERY_RETURN_IF_ERROR(completion.kind == verbs::CompletionKind::kReceived
                             ? TakeInbox(slot, completion.bytes)
                             : TakeMark(ntohl(completion.immediate)));
  return PostReceive(slot);
}

Status RdmaEndpoint::TakeFrame(uint32_t slot, size_t bytes) {
  if (incoming_) return Malformed("a frame before the last one was answered");
  if (bytes < kHeaderBytes) return Malformed("a frame without a header");
  const std::span<const std::byte> message = Slot(slot).first(bytes);
  const Result<FrameHeader> header = DecodeHeader(message.first<kHeaderBytes>());
  if (!header.ok()) return header.status();
  const size_t body_bytes = header.value().body_bytes;
  const size_t with_header = body_bytes <= kSmallBytesMax ? body_bytes : 0;
  if (bytes != kHeaderBytes + with_header) {
    return Malformed("a frame of " + std::to_string(bytes) + " bytes, expected " +
                     std::to_string(kHeaderBytes + with_header));
  }
  incoming_ = header.value();
  held_slot_ = slot;
  received_ = with_header;
  body_ = body_bytes == with_header ? message.subspan(kHeaderBytes) : InboxFor(body_bytes);
  return Status::Ok();
}

Status RdmaEndpoint::Admit() {
  const size_t bytes = incoming_ ? incoming_->body_bytes : 0;
  if (body_.size() == bytes) return Status::Ok();
  EMBERY_RETURN_IF_ERROR(Grow(inbox_, bytes, Slab::Access::kRemoteWrite));
  body_ = InboxFor(bytes);
  const Inbox told{reinterpret_cast<uintptr_t>(body_.data()), inbox_.bytes().size(),
                   inbox_.remote_key(), 0};
  std::memcpy(Slot(kInboxSlot).data(), &told, sizeof(told));
  return PostMessage(verbs::SendKind::kSendWithImmediate, kInboxSlot, sizeof(told));
}

std::span<const std::byte> RdmaEndpoint::InboxFor(size_t bytes) const {
  return inbox_.bytes().first(inbox_.bytes().size() < bytes ? 0 : bytes);
}

Status RdmaEndpoint::TakeInbox(uint32_t slot, size_t bytes) {
  Inbox told;
  if (bytes != sizeof(told)) return Malformed("an inbox of another version");
  std::memcpy(&told, Slot(slot).data(), sizeof(told));
  if (sending_ != Sending::kBody || told.bytes < body_bytes_) {
    return Malformed("an inbox that was not asked for, or is too small");
  }
  peer_inbox_ = told;
  return GoOn();
}

Status RdmaEndpoint::TakeMark(uint32_t bytes) {
  if (!incoming_ || bytes > body_.size() || bytes <= received_) {
    return Malformed("a mark that no frame has");
  }
  received_ = bytes;
  return Status::Ok();
}

void RdmaEndpoint::Release() {
  if (!incoming_) return;
  incoming_.reset();
  body_ = {};
  received_ = 0;
  // It fails only if the connection broke, which Poll will find as well.
  (void)PostReceive(held_slot_);
}

// ---- progress -----------------------------------------------------------------------------------

Result<size_t> RdmaEndpoint::PollSends() {
  std::array<verbs::Completion, kSendsMax> completions;
  const std::span<const verbs::Completion> found = PollQueue(send_cq_, completions);
  for (const verbs::Completion& completion : found) {
    EMBERY_RETURN_IF_ERROR(CheckSuccess(completion));
    --in_flight_;
  }
  return found.size();
}

Result<bool> RdmaEndpoint::Poll() {
  const Result<size_t> sent = PollSends();
  if (!sent.ok()) return sent.status();
  EMBERY_RETURN_IF_ERROR(GoOn());
  std::array<verbs::Completion, kReceives> completions;
  const std::span<const verbs::Completion> received = PollQueue(receive_cq_, completions);
  for (const verbs::Completion& completion : received) EMBERY_RETURN_IF_ERROR(Take(completion));
  return sent.value() + received.size() > 0;
}

bool RdmaEndpoint::IsArmed() const {
  const bool waits_for_sends =
      (sending_ == Sending::kHeader && in_flight_ > 0) || in_flight_ == kSendsMax;
  return are_receives_armed_ && (are_sends_armed_ || !waits_for_sends);
}

Status RdmaEndpoint::Arm() {
  const auto arm = [](verbs::Cq* cq, bool& is_armed) {
    const int error = cq->context->operations.request_notify_cq(cq, 0);
    is_armed = error == 0;
    return is_armed ? Status::Ok() : Failed("ibv_req_notify_cq", error);
  };
  if (!are_receives_armed_) EMBERY_RETURN_IF_ERROR(arm(receive_cq_, are_receives_armed_));
  return IsArmed() ? Status::Ok() : arm(send_cq_, are_sends_armed_);
}

Result<bool> RdmaEndpoint::Progress() {
  Result<bool> moved = Poll();
  if (!moved.ok() || moved.value() || IsArmed()) return moved;
  EMBERY_RETURN_IF_ERROR(Arm());
  return Poll();
}

}  // namespace embery
