// What a server does with pushes: it joins them, applies them once, and lets backups know.
#include <algorithm>
#include <optional>
#include <utility>

#include "base/counter.h"
#include "optim/row_codec.h"
#include "server/service.h"

namespace embery {
namespace {

SlotSet SlotsOf(const std::vector<SectionView>& sections) {
  SlotSet slots;
  for (const SectionView& section : sections) {
    for (uint32_t i = 0; i < section.count; ++i) {
      slots.Add(SlotOf(MixKey(section.salt, section.keys[i])));
    }
  }
  return slots;
}

}  // namespace

Status Service::DecodeGradients(const std::vector<SectionView>& sections, Body& decoded,
                                std::vector<const float*>& grads) {
  const auto is_narrow = [](const SectionView& s) { return s.encoding != ValueType::kFloat32; };
  size_t decoded_bytes = 0;
  for (const SectionView& section : sections) {
    if (is_narrow(section)) decoded_bytes += section.float_count() * sizeof(float);
  }
  decoded = Body::Take(pool_, decoded_bytes);
  if (decoded_bytes > 0 && decoded.data() == nullptr) {
    return Status::ResourceExhausted("no memory for the gradients of a push");
  }
  auto* next = reinterpret_cast<float*>(decoded.data());
  for (const SectionView& section : sections) {
    if (!is_narrow(section)) {
      grads.push_back(reinterpret_cast<const float*>(section.grads));
      continue;
    }
    DecodeRows(store_.kernels(), section.encoding, section.grads, section.count, section.dim, next);
    grads.push_back(next);
    next += section.float_count();
  }
  return Status::Ok();
}

Status Service::ApplyClaimed(std::span<const Part> parts,
                             std::span<const AppliedPushes::Claim> claims) {
  bool counts = false;
  bool is_whole = parts.size() == 1;
  for (const AppliedPushes::Claim& claim : claims) {
    counts = counts || claim.counts;
    is_whole = is_whole && claim.done.empty();
  }
  JoinedPush joined;
  for (size_t i = 0; i < parts.size() && !is_whole; ++i) {
    joined.Add(store_.kernels(), *parts[i].push, claims[i].done);
  }
  const PushMessage& first = *parts[0].push;
  const std::vector<SectionView>& sections = is_whole ? first.sections : joined.sections();
  std::vector<TableId> ids;
  EMBERY_RETURN_IF_ERROR(FindTables(sections, ids));
  Body decoded;
  std::vector<const float*> grads;
  EMBERY_RETURN_IF_ERROR(DecodeGradients(sections, decoded, grads));
  std::vector<PushRequest> requests;
  for (size_t i = 0; i < sections.size(); ++i) {
    requests.push_back({ids[i], sections[i].keys, sections[i].count, grads[i]});
  }
  const Status status =
      store_.Push(requests, first.head.now_s, counts ? PushStep::kNext : PushStep::kPresent);
  if (status.ok()) Count(stats_.rows_pushed, TotalKeys(sections));
  return status;
}

SlotSet Service::ArrivedSince(uint64_t version) const {
  SlotSet arrived;
  if (version >= routing_.last_change) return arrived;
  for (uint32_t slot = 0; slot < kSlotCount; ++slot) {
    if (routing_.slots.owners[slot] == number_ && routing_.slots.changed_at[slot] > version) {
      arrived.Add(slot);
    }
  }
  return arrived;
}

Status Service::Apply(std::span<const Part> parts, uint64_t& cut) {
  const ReaderLock changing(followers_.changing());
  std::vector<AppliedPushes::Claim> claims;
  Status status;
  // All contributions to a batch of a lease are one push, however workers have shared it.
  SlotSet together;
  Part whole = parts.front();
  std::span<const Part> claimed = parts;
  if (whole.identity().is_leased()) {
    for (const Part& part : parts) {
      together.Add(*part.slots);
      // By the oldest routing among them slots may have been passed by.
      if (part.push->head.routing_version < whole.push->head.routing_version) {
        whole.push = part.push;
      }
    }
    whole.slots = &together;
    claimed = {&whole, 1};
  }
  for (const Part& part : claimed) {
    const Result<AppliedPushes::Claim> claim = applied_.Begin(part.identity(), *part.slots);
    if (!claim.ok()) {
      status = claim.status();
      break;
    }
    claims.push_back(claim.value());
  }
  const size_t claimed_count = claims.size();
  if (status.ok()) {
    while (claims.size() < parts.size()) claims.push_back(claims.front());
    status = ApplyClaimed(parts, claims);
  }
  std::vector<AppliedPush> applied;
  for (const Part& part : claimed.first(claimed_count)) {
    if (status.ok()) {
      applied.push_back(
          {part.identity(), *part.slots, ArrivedSince(part.push->head.routing_version)});
      applied_.Finish(applied.back());
    } else {
      applied_.Abandon(part.identity());
    }
  }
  cut = followers_.Note(applied);
  return status;
}

void Service::Push(Request request, Done done) {
  const uint64_t id = request.header.request;
  Result<PushMessage> decoded = DecodePush(request.body.bytes());
  if (!decoded.ok()) return done(StatusReply(id, decoded.status()));
  PushMessage& push = decoded.value();
  SlotSet slots = SlotsOf(push.sections);
  const Part part{&push, &slots};
  const Status admitted = applied_.Admit(part.identity(), push.head.token());
  if (!admitted.ok()) return done(StatusReply(id, admitted));
  std::optional<Reply> reply;
  uint64_t cut = 0;
  {
    const ReaderLock lock(gate_);
    std::vector<TableId> ids;
    const Status found = FindTables(push.sections, ids);
    const uint32_t moved = found.ok() ? CountMoved(part) : 0;
    if (!found.ok()) {
      reply = Outcome(id, found);
    } else if (moved > 0) {
      reply = Moved(id, moved);
    } else if (push.head.world == 1) {
      reply = Outcome(id, Apply({&part, 1}, cut));
    }
  }
  const uint64_t keys = TotalKeys(push.sections);
  if (reply.has_value()) return Answer(cut, std::move(*reply), id, keys, done);
  if (applied_.IsApplied(part.identity(), slots)) {
    // The reply was lost, or others of the group have moved slots to push to again: they may still
    // need this rank, with nothing to apply.
    Answer(followers_.Present(), StatusReply(id, Status::Ok()), id, keys, done);
    push.sections.clear();
    slots = {};
    done = [](const Reply&) {};
  }
  PushGroups::Outcome outcome =
      groups_.Add({std::move(request), std::move(push), slots, std::move(done)});
  FailAll(outcome.refused, outcome.refusal);
  FailAll(outcome.given_up,
          Status::Unavailable("a worker of this push's group went on without it"));
  if (!outcome.complete.empty()) ApplyGroup(std::move(outcome.complete));
}

void Service::ApplyGroup(std::vector<Contribution> group) {
  std::vector<Reply> replies;
  uint64_t cut = 0;
  {
    const ReaderLock lock(gate_);
    // The routing may have changed while they waited.
    uint32_t moved = 0;
    std::vector<Part> parts;
    for (const Contribution& contribution : group) {
      parts.push_back({&contribution.message, &contribution.slots});
      moved += CountMoved(parts.back());
    }
    const Status status = moved > 0 ? Status::Ok() : Apply(parts, cut);
    for (const Contribution& part : group) {
      const uint64_t id = part.request.header.request;
      replies.push_back(moved > 0 ? Moved(id, moved) : Outcome(id, status));
    }
  }
  for (size_t i = 0; i < group.size(); ++i) {
    Answer(cut, std::move(replies[i]), group[i].request.header.request,
           TotalKeys(group[i].message.sections), group[i].done);
  }
}

void Service::FailAll(const std::vector<Contribution>& contributions, const Status& status) {
  for (const Contribution& part : contributions) {
    part.done(StatusReply(part.request.header.request, status));
  }
}

}  // namespace embery
