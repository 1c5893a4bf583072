#include "server/service.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <utility>

#include "base/counter.h"
#include "optim/row_codec.h"

namespace embery {
namespace {

PullMode ToPullMode(ReadMode mode) {
  switch (mode) {
    case ReadMode::kTrain:
      return PullMode::kTrain;
    case ReadMode::kEval:
      return PullMode::kEval;
    case ReadMode::kPeek:
      return PullMode::kPeek;
  }
  return PullMode::kEval;
}

// Takes the same time wherever the two differ, so that a secret cannot be guessed byte by byte.
bool EqualInConstantTime(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  volatile unsigned char differences = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    differences = static_cast<unsigned char>(
        differences | (static_cast<unsigned char>(a[i]) ^ static_cast<unsigned char>(b[i])));
  }
  return differences == 0;
}

}  // namespace

Status Service::AddTable(uint64_t salt, TableId table) {
  if (store_.FindTable(table) == nullptr) {
    return Status::InvalidArgument("add_table: the store has no table " + std::to_string(table));
  }
  const WriterLock lock(gate_);
  const auto [at, added] = tables_.emplace(salt, table);
  if (added || at->second == table) {
    followers_.AddTable(salt, table);
    copies_.AddTable(salt, table);
    return Status::Ok();
  }
  return Status::InvalidArgument("add_table: the salt " + std::to_string(salt) +
                                 " belongs to table " + std::to_string(at->second) +
                                 "; two tables whose names hash alike cannot share a server");
}

Status Service::SetRouting(uint64_t version, std::span<const uint16_t> owners,
                           std::span<const uint16_t> backups,
                           std::span<const uint64_t> changed_at) {
  if (owners.size() != kSlotCount || backups.size() != kSlotCount ||
      changed_at.size() != kSlotCount) {
    return Status::InvalidArgument(
        "set_routing: " + std::to_string(kSlotCount) +
        " owners, backups and versions are needed, got " + std::to_string(owners.size()) + ", " +
        std::to_string(backups.size()) + " and " + std::to_string(changed_at.size()));
  }
  Routing routing;
  SlotRouting& slots = routing.slots;
  slots.version = version;
  std::copy(owners.begin(), owners.end(), slots.owners.begin());
  std::copy(backups.begin(), backups.end(), slots.backups.begin());
  std::copy(changed_at.begin(), changed_at.end(), slots.changed_at.begin());
  routing.owns_all = std::all_of(owners.begin(), owners.end(),
                                 [this](ServerNumber owner) { return owner == number_; });
  routing.last_change = *std::max_element(changed_at.begin(), changed_at.end());
  std::map<ServerNumber, SlotSet> of_backups;
  std::function<void()> answer_waiting;
  Status status;
  {
    const WriterLock lock(gate_);
    // Known already: what was frozen since stays so.
    if (version <= routing_.slots.version) return Status::Ok();
    auto kept = Followers::Kept::kAll;
    for (uint32_t slot = 0; slot < kSlotCount; ++slot) {
      const bool is_mine = slots.owners[slot] == number_;
      if (!is_mine && routing_.slots.owners[slot] == number_) kept = Followers::Kept::kSome;
      if (is_mine && slots.backups[slot] != kNoServer) of_backups[slots.backups[slot]].Add(slot);
    }
    status = copies_.Follow(routing_.slots, slots);
    answer_waiting = followers_.Follow(version, of_backups, kept);
    routing_ = routing;
  }
  answer_waiting();
  return status;
}

size_t Service::Evict(TableId table, uint32_t now_s) {
  const ReaderLock changing(followers_.changing());
  const size_t evicted = store_.Evict(*store_.FindTable(table), now_s);
  followers_.Note({});
  return evicted;
}

void Service::RetireLeases(uint64_t before) {
  applied_.RetireLeases(before);
  copies_.RetireLeases(before);
}

void Service::NoteChange() {
  const ReaderLock changing(followers_.changing());
  followers_.Note({});
}

Status Service::CheckHello(const Request& hello) {
  if (hello.header.type != FrameType::kHello) {
    return Status(StatusCode::kUnauthenticated, "the first frame of a connection must be a hello");
  }
  const Result<std::string_view> shown = DecodeHello(hello.body.bytes());
  if (!shown.ok()) return shown.status();
  if (EqualInConstantTime(shown.value(), secret_)) return Status::Ok();
  return Status(StatusCode::kUnauthenticated,
                "the secret is not that of this server; negotiate the connection again");
}

Status Service::FindTables(const std::vector<SectionView>& sections,
                           std::vector<TableId>& ids) const {
  for (const SectionView& section : sections) {
    const auto at = tables_.find(section.salt);
    if (at == tables_.end()) {
      return Status(StatusCode::kTableNotFound,
                    "server " + std::to_string(number_) + " has no table of salt " +
                        std::to_string(section.salt) + "; create it by create_table");
    }
    const TableSpec& spec = store_.FindTable(at->second)->spec();
    if (spec.dim != section.dim) {
      return Status::InvalidArgument("table '" + spec.name + "' has rows of " +
                                     std::to_string(spec.dim) + " columns, the request of " +
                                     std::to_string(section.dim));
    }
    ids.push_back(at->second);
  }
  return Status::Ok();
}

void Service::FreezeSlots(uint32_t begin, uint32_t end) {
  const WriterLock lock(gate_);
  routing_.frozen.Add(SlotSet::Range(begin, end));
}

bool Service::ServesAll(uint64_t version, Access access) const {
  return routing_.owns_all && version >= routing_.last_change &&
         (access == Access::kRead || routing_.frozen.empty());
}

bool Service::Serves(uint32_t slot, uint64_t version, Access access) const {
  return routing_.slots.owners[slot] == number_ && version >= routing_.slots.changed_at[slot] &&
         (access == Access::kRead || !routing_.frozen.Contains(slot));
}

uint32_t Service::CountMoved(uint64_t version, const std::vector<SectionView>& sections,
                             Access access) const {
  if (ServesAll(version, access)) return 0;
  uint32_t moved = 0;
  for (const SectionView& section : sections) {
    for (uint32_t i = 0; i < section.count; ++i) {
      moved += Serves(SlotOf(MixKey(section.salt, section.keys[i])), version, access) ? 0 : 1;
    }
  }
  return moved;
}

uint32_t Service::CountMoved(const Part& part) const {
  const uint64_t version = part.push->head.routing_version;
  if (ServesAll(version, Access::kChange)) return 0;
  bool serves_these = true;
  part.slots->ForEach([&](uint32_t slot) NO_THREAD_SAFETY_ANALYSIS {
    serves_these = serves_these && Serves(slot, version, Access::kChange);
  });
  return serves_these ? 0 : CountMoved(version, part.push->sections, Access::kChange);
}

Reply Service::MakeReply(uint64_t request, ReplyHead head, std::string_view text,
                         std::span<const uint8_t> absent, Body rows) const {
  const std::vector<std::byte> encoded = EncodeReplyHead(head, text, absent);
  Reply reply;
  reply.head.resize(kHeaderBytes + encoded.size());
  EncodeHeader({FrameType::kReply, request, static_cast<uint32_t>(encoded.size() + rows.size())},
               reply.head.data());
  std::copy(encoded.begin(), encoded.end(), reply.head.begin() + kHeaderBytes);
  reply.rows = std::move(rows);
  return reply;
}

Reply Service::Outcome(uint64_t request, const Status& status) {
  if (!status.ok()) Count(stats_.failed, 1);
  ReplyHead head;
  head.code = status.code();
  head.routing_version = routing_.slots.version;
  return MakeReply(request, head, status.message(), {}, Body());
}

Reply Service::Moved(uint64_t request, uint32_t moved) {
  Count(stats_.moved, moved);
  ReplyHead head;
  head.routing_version = routing_.slots.version;
  head.moved = moved;
  return MakeReply(request, head, {}, {}, Body());
}

Reply Service::StatusReply(uint64_t request, const Status& status) {
  const ReaderLock lock(gate_);
  return Outcome(request, status);
}

void Service::Handle(Request request, Done done) {
  Count(stats_.requests, 1);
  const auto begin = std::chrono::steady_clock::now();
  if (request.header.type == FrameType::kPull) {
    return Pull(request, [this, begin, done = std::move(done)](Reply reply) {
      stats_.pull_time.Add(std::chrono::steady_clock::now() - begin);
      done(std::move(reply));
    });
  }
  if (request.header.type == FrameType::kCopy) return done(Repeat(request));
  if (request.header.type == FrameType::kPush) {
    return Push(std::move(request), [this, begin, done = std::move(done)](Reply reply) {
      stats_.push_time.Add(std::chrono::steady_clock::now() - begin);
      done(std::move(reply));
    });
  }
  done(StatusReply(request.header.request,
                   Status::InvalidArgument("a request must be a pull, a push or a copy")));
}

Body Service::TakeRows(const Request& request, size_t absent_count, size_t bytes) {
  Body rows;
  if (request.reply_space != nullptr) {
    rows = request.reply_space->Take(ReplyRowsOffset(absent_count), bytes);
  }
  return rows.data() == nullptr ? Body::Take(pool_, bytes) : std::move(rows);
}

void Service::Pull(const Request& request, const Done& done) {
  const uint64_t id = request.header.request;
  const Result<PullMessage> decoded = DecodePull(request.body.bytes());
  if (!decoded.ok()) return done(StatusReply(id, decoded.status()));
  uint64_t cut = 0;
  Reply reply;
  {
    const ReaderLock lock(gate_);
    reply = PullRows(request, decoded.value(), cut);
  }
  Answer(cut, std::move(reply), id, TotalKeys(decoded.value().sections), done);
}

Status Service::ReadRows(std::span<const PullRequest> requests, const PullHead& pull,
                         uint64_t& cut) {
  const PullMode mode = ToPullMode(pull.mode);
  if (mode != PullMode::kTrain) return store_.Pull(requests, mode, pull.now_s).status();
  const ReaderLock changing(followers_.changing());
  const Result<size_t> missing = store_.Pull(requests, mode, pull.now_s);
  if (!missing.ok() || missing.value() > 0) cut = followers_.Note({});
  return missing.status();
}

Reply Service::PullRows(const Request& request, const PullMessage& message, uint64_t& cut) {
  const uint64_t id = request.header.request;
  const auto& [pull, sections] = message;
  std::vector<TableId> ids;
  if (const Status found = FindTables(sections, ids); !found.ok()) return Outcome(id, found);
  const Access access = pull.mode == ReadMode::kTrain ? Access::kChange : Access::kRead;
  if (const uint32_t moved = CountMoved(pull.routing_version, sections, access); moved > 0) {
    return Moved(id, moved);
  }
  ReplyHead head;
  head.routing_version = routing_.slots.version;
  for (const SectionView& section : sections) head.row_bytes += section.value_bytes();
  const uint64_t keys = TotalKeys(sections);
  if (head.row_bytes + keys + kHeaderBytes > kBodyBytesMax) {
    return Outcome(id, Status::InvalidArgument("a pull of " + std::to_string(keys) +
                                               " rows is too large for a frame; "
                                               "pull it in parts"));
  }
  const size_t absent_count = pull.mode == ReadMode::kPeek ? keys : 0;
  Body rows = TakeRows(request, absent_count, head.row_bytes);
  if (head.row_bytes > 0 && rows.data() == nullptr) {
    return Outcome(id, Status::ResourceExhausted("no memory for the rows of a pull"));
  }
  std::vector<uint8_t> absent(absent_count);
  std::vector<PullRequest> requests;
  std::byte* out = rows.data();
  uint8_t* flags = absent.empty() ? nullptr : absent.data();
  for (size_t i = 0; i < sections.size(); ++i) {
    const SectionView& section = sections[i];
    const RowsOut to(out, section.encoding);
    requests.push_back({ids[i], section.keys, section.count, to, flags});
    out += section.value_bytes();
    if (flags != nullptr) flags += section.count;
  }
  const Status status = ReadRows(requests, pull, cut);
  if (!status.ok()) return Outcome(id, status);
  Count(stats_.rows_pulled, keys);
  head.absent_count = static_cast<uint32_t>(absent.size());
  return MakeReply(id, head, {}, absent, std::move(rows));
}

Reply Service::Repeat(const Request& request) {
  const uint64_t id = request.header.request;
  const Result<CopyFrame> frame = DecodeCopyFrame(request.body.bytes());
  const ReaderLock lock(gate_);
  if (!frame.ok()) return Outcome(id, frame.status());
  const Result<Copies::Verdict> verdict = copies_.Repeat(frame.value(), routing_.slots);
  if (!verdict.ok()) return Outcome(id, verdict.status());
  return verdict.value() == Copies::Verdict::kRefused ? Moved(id, 1) : Outcome(id, Status::Ok());
}

void Service::Answer(uint64_t cut, Reply reply, uint64_t request, uint64_t keys, const Done& done) {
  if (cut == 0) return done(std::move(reply));
  // Made now: when the time has come, the gate may be held.
  const auto safe = std::make_shared<Reply>(std::move(reply));
  const auto refused = std::make_shared<Reply>();
  const auto stopped = std::make_shared<Reply>(
      StatusReply(request, Status::Unavailable("server " + std::to_string(number_) + " stops")));
  {
    const ReaderLock lock(gate_);
    *refused = Moved(request, static_cast<uint32_t>(std::max<uint64_t>(keys, 1)));
  }
  followers_.WhenSafe(cut, [=](Followers::Fate fate) {
    done(std::move(fate == Followers::Fate::kSafe      ? *safe
                   : fate == Followers::Fate::kRefused ? *refused
                                                       : *stopped));
  });
}

void Service::Stop() {
  followers_.Stop();
  FailAll(groups_.TakeAll(), Status::Unavailable("server " + std::to_string(number_) + " stops"));
}

}  // namespace embery
