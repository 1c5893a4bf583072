#include "client/client.h"

#include <algorithm>
#include <functional>
#include <string>
#include <utility>

namespace embery {
namespace {

// The tables of a call with their encodings on the way that it takes.
template <typename Wire>
std::vector<TableKeys> Encoded(std::span<const TableKeys> tables, const std::vector<Wire>& wires,
                               ValueType WireSpec::*encoding) {
  std::vector<TableKeys> encoded(tables.begin(), tables.end());
  for (size_t t = 0; t < encoded.size(); ++t) encoded[t].encoding = wires[t].spec.*encoding;
  return encoded;
}

template <typename T>
std::span<const std::byte> AsBytes(const std::vector<T>& values) {
  return std::as_bytes(std::span<const T>(values));
}

// A frame whose body would be too large is refused before anything is sent.
Status RequireFits(uint64_t body_bytes, const char* call) {
  if (body_bytes <= kBodyBytesMax) return Status::Ok();
  return Status::InvalidArgument(std::string(call) + ": a server's part has " +
                                 std::to_string(body_bytes) + " bytes, more than the " +
                                 std::to_string(kBodyBytesMax) +
                                 " of a frame; give fewer keys at a time");
}

// Where the rows begin in the reply to a shard's pull.
size_t RowsOffset(const Shards::Shard& shard, ReadMode mode) {
  return ReplyRowsOffset(mode == ReadMode::kPeek ? shard.keys.size() : 0);
}

Status RequireSections(size_t tables, const char* call) {
  if (tables <= kSectionsMax) return Status::Ok();
  return Status::InvalidArgument(std::string(call) + ": at most " + std::to_string(kSectionsMax) +
                                 " tables at a time, got " + std::to_string(tables));
}

}  // namespace

// ---- servers ------------------------------------------------------------------------------------

Status Client::Connect(uint16_t server, std::unique_ptr<Connector> connector, Deadline deadline) {
  Result<std::unique_ptr<Connection>> first = connector->Open(deadline);
  if (!first.ok()) return first.status();
  auto peer = std::make_shared<Peer>(std::move(connector));
  {
    const MutexLock lock(peer->mutex);
    peer->idle.push_back(std::move(first).value());
  }
  Disconnect(server);
  const MutexLock lock(mutex_);
  peers_[server] = std::move(peer);
  ++stats_.connects;
  return Status::Ok();
}

void Client::Disconnect(uint16_t server) {
  std::shared_ptr<Peer> gone;
  {
    const MutexLock lock(mutex_);
    const auto at = peers_.find(server);
    if (at == peers_.end()) return;
    gone = std::move(at->second);
    peers_.erase(at);
  }
  std::vector<std::unique_ptr<Connection>> closing;
  const MutexLock lock(gone->mutex);
  gone->closed = true;
  closing.swap(gone->idle);
}

Status Client::SetRouting(uint64_t version, std::span<const uint16_t> owners) {
  if (owners.size() != kSlotCount) {
    return Status::InvalidArgument("set_routing: " + std::to_string(kSlotCount) +
                                   " owners are needed, got " + std::to_string(owners.size()));
  }
  auto routing = std::make_shared<ClientRouting>();
  routing->version = version;
  routing->servers.assign(owners.begin(), owners.end());
  std::sort(routing->servers.begin(), routing->servers.end());
  routing->servers.erase(std::unique(routing->servers.begin(), routing->servers.end()),
                         routing->servers.end());
  for (size_t slot = 0; slot < kSlotCount; ++slot) {
    const auto at =
        std::lower_bound(routing->servers.begin(), routing->servers.end(), owners[slot]);
    routing->shard_of_slot[slot] = static_cast<uint16_t>(at - routing->servers.begin());
  }
  const MutexLock lock(mutex_);
  if (routing_ == nullptr || version >= routing_->version) routing_ = std::move(routing);
  return Status::Ok();
}

std::shared_ptr<const ClientRouting> Client::routing() {
  const MutexLock lock(mutex_);
  return routing_;
}

// ---- encodings ----------------------------------------------------------------------------------

void Client::SetWire(uint64_t salt, const WireSpec& spec) {
  const MutexLock lock(mutex_);
  const auto at = wires_.find(salt);
  if (at != wires_.end() && at->second.spec == spec) return;
  Wire wire{spec, nullptr};
  if (spec.grads != ValueType::kFloat32 && spec.residual_rows_max >= 2) {
    wire.residuals = std::make_shared<Residuals>(spec.dim, spec.residual_rows_max);
  }
  wires_[salt] = std::move(wire);
}

std::shared_ptr<Residuals> Client::residuals(uint64_t salt) {
  const MutexLock lock(mutex_);
  const auto at = wires_.find(salt);
  return at == wires_.end() ? nullptr : at->second.residuals;
}

void Client::ClearResiduals() {
  const MutexLock lock(mutex_);
  for (auto& [salt, wire] : wires_) {
    if (wire.residuals != nullptr) wire.residuals->Clear();
  }
}

Result<std::vector<Client::Wire>> Client::FindWires(std::span<const TableKeys> tables) {
  std::vector<Wire> wires;
  const MutexLock lock(mutex_);
  for (const TableKeys& table : tables) {
    const auto at = wires_.find(table.salt);
    wires.push_back(at == wires_.end() ? Wire{{table.dim}, nullptr} : at->second);
    if (wires.back().spec.dim == table.dim) continue;
    return Status::InvalidArgument("the wire of table " + std::to_string(table.salt) +
                                   " was set for rows of " + std::to_string(wires.back().spec.dim) +
                                   " columns, the call has " + std::to_string(table.dim) +
                                   "; set it again");
  }
  return wires;
}

std::vector<Feedback> Client::MakeFeedback(const std::vector<Wire>& wires, Scratch& scratch) {
  if (scratch.undo.size() < wires.size()) scratch.undo.resize(wires.size());
  std::vector<Feedback> feedback(wires.size());
  for (size_t t = 0; t < wires.size(); ++t) {
    Residuals* residuals = wires[t].residuals.get();
    if (residuals == nullptr) continue;
    const size_t floats = scratch.shards.distinct_count(t) * residuals->undo_floats();
    feedback[t] = {residuals, scratch.undo[t].Reset(floats)};
  }
  return feedback;
}

// ---- exchanges ----------------------------------------------------------------------------------

Result<std::shared_ptr<Client::Peer>> Client::FindPeer(uint16_t server) {
  const MutexLock lock(mutex_);
  const auto at = peers_.find(server);
  if (at != peers_.end()) return at->second;
  return Status::Unavailable("server " + std::to_string(server) +
                             " owns slots and is not connected");
}

Result<std::unique_ptr<Connection>> Client::Take(Peer& peer, Deadline deadline) {
  {
    const MutexLock lock(peer.mutex);
    if (!peer.idle.empty()) {
      std::unique_ptr<Connection> connection = std::move(peer.idle.back());
      peer.idle.pop_back();
      return connection;
    }
  }
  {
    const MutexLock lock(mutex_);
    ++stats_.connects;
  }
  return peer.connector->Open(deadline);
}

Status Client::Open(Exchange& exchange, uint16_t server, Deadline deadline) {
  Result<std::shared_ptr<Peer>> peer = FindPeer(server);
  if (!peer.ok()) return peer.status();
  exchange.peer = std::move(peer).value();
  Result<std::unique_ptr<Connection>> connection = Take(*exchange.peer, deadline);
  if (!connection.ok()) return connection.status();
  exchange.connection = std::move(connection).value();
  return Status::Ok();
}

Status Client::Finish(std::vector<Exchange>& exchanges, Deadline deadline,
                      const std::function<void()>& progressed) {
  std::vector<Exchange*> open;
  for (Exchange& exchange : exchanges) {
    if (exchange.connection != nullptr) open.push_back(&exchange);
  }
  std::vector<pollfd> awaited;
  while (true) {
    awaited.clear();
    for (auto it = open.begin(); it != open.end();) {
      const Result<bool> done = (*it)->connection->Advance();
      if (!done.ok()) {
        // The others to this server are no better.
        const MutexLock lock((*it)->peer->mutex);
        (*it)->peer->idle.clear();
        return done.status();
      }
      if (done.value()) {
        it = open.erase(it);
      } else {
        awaited.push_back((*it++)->connection->Awaited());
      }
    }
    progressed();
    if (open.empty()) return Status::Ok();
    if (!WaitForAny(awaited, deadline)) {
      return Status(
          StatusCode::kDeadlineExceeded,
          open.front()->peer->connector->name() + " did not answer in time" +
              (open.size() == 1 ? std::string()
                                : ", nor did " + std::to_string(open.size() - 1) + " others") +
              "; what it was asked may still be done");
    }
  }
}

Status Client::FirstFailure(std::vector<Exchange>& exchanges) {
  Status failure;
  for (Exchange& exchange : exchanges) {
    if (exchange.connection == nullptr) continue;
    const Result<ReplyMessage> reply = DecodeReply(exchange.connection->reply());
    const std::string& name = exchange.peer->connector->name();
    if (!reply.ok()) {
      exchange.connection.reset();
      failure = Status::Internal(name + ": " + reply.status().message());
      continue;
    }
    exchange.reply = reply.value();
    if (exchange.reply.head.code != StatusCode::kOk && failure.ok()) {
      failure = Status(exchange.reply.head.code, name + ": " + std::string(exchange.reply.text));
    }
  }
  return failure;
}

void Client::GiveBack(std::vector<Exchange>& exchanges) {
  for (Exchange& exchange : exchanges) {
    if (exchange.connection == nullptr) continue;
    const MutexLock lock(exchange.peer->mutex);
    if (!exchange.peer->closed) exchange.peer->idle.push_back(std::move(exchange.connection));
  }
}

void Client::CountTraffic(const std::vector<Exchange>& exchanges, std::span<const TableKeys> tables,
                          const Shards& shards) {
  const MutexLock lock(mutex_);
  for (const TableKeys& table : tables) stats_.keys += table.keys.size();
  for (const Shards::Shard& shard : shards.shards()) stats_.keys_sent += shard.keys.size();
  for (const Exchange& exchange : exchanges) {
    if (exchange.connection == nullptr) continue;
    ++stats_.requests;
    stats_.bytes_sent += exchange.connection->bytes_sent();
    stats_.bytes_received += kHeaderBytes + exchange.connection->reply().size();
  }
}

size_t Client::MarkRefused(const std::vector<bool>& refused, const Shards& shards,
                           std::span<uint8_t* const> out) {
  if (std::none_of(refused.begin(), refused.end(), std::identity())) return 0;
  const size_t count = shards.MarkRefused(refused, out);
  const MutexLock lock(mutex_);
  stats_.refused += count;
  return count;
}

Client::Stats Client::stats() {
  std::vector<std::shared_ptr<Peer>> peers;
  std::vector<std::shared_ptr<Residuals>> residuals;
  Stats stats{};
  {
    const MutexLock lock(mutex_);
    stats = stats_;
    for (const auto& [number, peer] : peers_) peers.push_back(peer);
    for (const auto& [salt, wire] : wires_) {
      if (wire.residuals != nullptr) residuals.push_back(wire.residuals);
    }
  }
  for (const std::shared_ptr<Residuals>& of_table : residuals) {
    const Residuals::Stats kept = of_table->stats();
    stats.residual_rows += kept.rows;
    stats.residuals_dropped += kept.dropped;
  }
  for (const std::shared_ptr<Peer>& peer : peers) {
    const MutexLock lock(peer->mutex);
    stats.connections += peer->idle.size();
  }
  return stats;
}

// ---- calls --------------------------------------------------------------------------------------

Result<size_t> Client::Pull(const PullCall& call) {
  const auto by = routing();
  if (by == nullptr) return Status::Unavailable("pull: no routing was set yet");
  EMBERY_RETURN_IF_ERROR(RequireSections(call.tables.size(), "pull"));
  const Result<std::vector<Wire>> wires = FindWires(call.tables);
  if (!wires.ok()) return wires.status();
  const auto scratch = scratch_.Take();
  Shards& shards = scratch->shards;
  shards.Plan(Encoded(call.tables, wires.value(), &WireSpec::rows), by, Repeats::kJoin, pool_);
  const size_t count = shards.shards().size();
  std::vector<std::vector<std::byte>> heads(count);
  std::vector<Exchange> exchanges(count);
  for (size_t s = 0; s < count; ++s) {
    const Shards::Shard& shard = shards.shards()[s];
    if (shard.keys.empty()) continue;
    EMBERY_RETURN_IF_ERROR(RequireFits(RowsOffset(shard, call.mode) + shard.value_bytes, "pull"));
    heads[s] = EncodePullHead({by->version, call.now_s, call.mode}, shard.sections);
    const std::span<const std::byte> body[] = {heads[s], AsBytes(shard.keys)};
    EMBERY_RETURN_IF_ERROR(Open(exchanges[s], by->servers[s], call.deadline));
    EMBERY_RETURN_IF_ERROR(
        exchanges[s].connection->Start(FrameType::kPull, body, heads[s].size() + body[1].size()));
  }
  std::vector<const std::byte*> rows(count);
  std::vector<uint64_t> bytes(count);
  std::vector<bool> refused(count);
  Shards::Scatter scatter{kernels_, rows, bytes, refused, call.out};
  // Rows are handed out while more of them come.
  EMBERY_RETURN_IF_ERROR(Finish(exchanges, call.deadline, [&] {
    for (size_t s = 0; s < count; ++s) {
      if (exchanges[s].connection == nullptr) continue;
      const Connection& connection = *exchanges[s].connection;
      const size_t offset = RowsOffset(shards.shards()[s], call.mode);
      const size_t received = connection.received_bytes();
      if (received < offset ||
          connection.reply().size() != offset + shards.shards()[s].value_bytes ||
          !CarriesRows(connection.reply())) {
        continue;
      }
      rows[s] = connection.reply().data() + offset;
      bytes[s] = received - offset;
    }
    shards.ScatterRows(scatter, pool_);
  }));
  CountTraffic(exchanges, call.tables, shards);
  Status failure = FirstFailure(exchanges);
  if (failure.ok()) failure = CheckRows(exchanges, shards, call.mode);
  size_t refused_count = 0;
  if (failure.ok()) {
    std::vector<const uint8_t*> flags(count);
    for (size_t s = 0; s < count; ++s) {
      refused[s] = exchanges[s].reply.head.moved > 0;
      flags[s] = refused[s] ? nullptr : exchanges[s].reply.absent.data();
    }
    shards.ScatterRows(scatter, pool_);
    if (call.mode == ReadMode::kPeek) shards.ScatterFlags(flags, call.absent);
    refused_count = MarkRefused(refused, shards, call.refused);
  }
  GiveBack(exchanges);
  if (!failure.ok()) return failure;
  return refused_count;
}

Status Client::CheckRows(const std::vector<Exchange>& exchanges, const Shards& shards,
                         ReadMode mode) {
  for (size_t s = 0; s < exchanges.size(); ++s) {
    const ReplyHead& head = exchanges[s].reply.head;
    if (exchanges[s].connection == nullptr || head.moved > 0) continue;
    const Shards::Shard& shard = shards.shards()[s];
    const size_t absent = mode == ReadMode::kPeek ? shard.keys.size() : 0;
    if (head.row_bytes == shard.value_bytes && head.absent_count == absent) continue;
    return Status::Internal(exchanges[s].peer->connector->name() +
                            " answered a pull with another number of rows");
  }
  return Status::Ok();
}

Status Client::SendGradients(const PushCall& call, const ClientRouting& by,
                             std::span<const Feedback> feedback, Scratch& scratch,
                             std::vector<Exchange>& exchanges) {
  Shards& shards = scratch.shards;
  const size_t count = shards.shards().size();
  if (scratch.grads.size() < count) scratch.grads.resize(count);
  std::vector<std::byte*> to;
  std::vector<std::vector<std::byte>> heads(count);
  std::vector<size_t> grads_offset;  // In the body.
  const PushHead head{by.version, call.as,    call.sequence, call.round,
                      call.rank,  call.world, call.now_s};
  for (size_t s = 0; s < count; ++s) {
    const Shards::Shard& shard = shards.shards()[s];
    heads[s] = EncodePushHead(head, shard.sections);
    grads_offset.push_back(heads[s].size() + shard.keys.size() * sizeof(uint64_t));
    // A server decodes them: see DecodePush.
    const uint64_t float_bytes = shard.float_count * sizeof(float);
    EMBERY_RETURN_IF_ERROR(RequireFits(grads_offset[s] + float_bytes, "push"));
  }
  for (size_t s = 0; s < count; ++s) {
    EMBERY_RETURN_IF_ERROR(Open(exchanges[s], by.servers[s], call.deadline));
    Connection& connection = *exchanges[s].connection;
    const Shards::Shard& shard = shards.shards()[s];
    std::byte* place = connection.Place(grads_offset[s] + shard.value_bytes);
    to.push_back(place == nullptr ? scratch.grads[s].Reset(shard.value_bytes)
                                  : place + grads_offset[s]);
    const std::span<const std::byte> body[] = {
        heads[s], AsBytes(shard.keys), {to[s], shard.value_bytes}};
    EMBERY_RETURN_IF_ERROR(connection.Start(FrameType::kPush, body, grads_offset[s]));
  }
  // Gradients are sent while more of them are summed.
  Status status;
  shards.GatherGradients(
      {kernels_, call.grads, feedback, to},
      [&](std::span<const uint64_t> bytes) {
        for (size_t s = 0; s < count && status.ok(); ++s) {
          status = exchanges[s].connection->SetReady(grads_offset[s] + bytes[s]);
        }
      },
      pool_);
  if (status.ok()) status = Finish(exchanges, call.deadline, [] {});
  if (!status.ok()) shards.ReturnFeedback(feedback, std::vector<bool>(count, true));
  return status;
}

Result<size_t> Client::Push(const PushCall& call) {
  const auto by = routing();
  if (by == nullptr) return Status::Unavailable("push: no routing was set yet");
  EMBERY_RETURN_IF_ERROR(RequireSections(call.tables.size(), "push"));
  const Result<std::vector<Wire>> wires = FindWires(call.tables);
  if (!wires.ok()) return wires.status();
  const auto scratch = scratch_.Take();
  Shards& shards = scratch->shards;
  // A group's pushes are summed by the server in rank order: this worker's part may not be summed
  // before.
  shards.Plan(Encoded(call.tables, wires.value(), &WireSpec::grads), by,
              call.world == 1 ? Repeats::kJoin : Repeats::kKeep, pool_);
  const std::vector<Feedback> feedback = MakeFeedback(wires.value(), *scratch);
  std::vector<Exchange> exchanges(shards.shards().size());
  EMBERY_RETURN_IF_ERROR(SendGradients(call, *by, feedback, *scratch, exchanges));
  CountTraffic(exchanges, call.tables, shards);
  const Status failure = FirstFailure(exchanges);
  std::vector<bool> refused;
  for (const Exchange& exchange : exchanges) refused.push_back(exchange.reply.head.moved > 0);
  shards.ReturnFeedback(feedback,
                        failure.ok() ? refused : std::vector<bool>(exchanges.size(), true));
  const size_t refused_count = failure.ok() ? MarkRefused(refused, shards, call.refused) : 0;
  GiveBack(exchanges);
  if (!failure.ok()) return failure;
  return refused_count;
}

Result<uint32_t> Client::SendCopy(uint16_t server, std::span<const std::byte> frame,
                                  Deadline deadline) {
  EMBERY_RETURN_IF_ERROR(RequireFits(frame.size(), "copy"));
  std::vector<Exchange> exchanges(1);
  EMBERY_RETURN_IF_ERROR(Open(exchanges[0], server, deadline));
  EMBERY_RETURN_IF_ERROR(
      exchanges[0].connection->Start(FrameType::kCopy, {&frame, 1}, frame.size()));
  EMBERY_RETURN_IF_ERROR(Finish(exchanges, deadline, [] {}));
  const Status failure = FirstFailure(exchanges);
  const uint32_t refused = exchanges[0].reply.head.moved;
  GiveBack(exchanges);
  if (!failure.ok()) return failure;
  return refused;
}

}  // namespace embery
