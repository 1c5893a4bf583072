#include "server/push_groups.h"

#include <algorithm>
#include <iterator>
#include <string>
#include <utility>

#include "optim/row_codec.h"

namespace embery {

void PushGroups::MoveOut(Groups::node_type group, std::vector<Contribution>& to) {
  for (auto& [rank, contribution] : group.mapped().by_rank) to.push_back(std::move(contribution));
}

void PushGroups::DropAbandoned(std::vector<Contribution>& to) {
  for (auto group = groups_.begin(); group != groups_.end();) {
    auto& by_rank = group->second.by_rank;
    for (auto it = by_rank.begin(); it != by_rank.end();) {
      const auto& abandoned = it->second.request.abandoned;
      if (abandoned == nullptr || !abandoned->load()) {
        ++it;
        continue;
      }
      to.push_back(std::move(it->second));
      it = by_rank.erase(it);
    }
    group = by_rank.empty() ? groups_.erase(group) : std::next(group);
  }
}

void PushGroups::GiveUpBefore(uint64_t round, uint32_t rank, std::vector<Contribution>& to) {
  for (auto it = groups_.begin(); it != groups_.end() && it->first < round;) {
    const auto group = it++;
    if (group->second.by_rank.contains(rank)) MoveOut(groups_.extract(group), to);
  }
  while (groups_.size() > kGroupsMax) MoveOut(groups_.extract(groups_.begin()), to);
}

PushGroups::Outcome PushGroups::Add(Contribution contribution) {
  Outcome outcome;
  const PushHead head = contribution.message.head;
  const MutexLock lock(mutex_);
  DropAbandoned(outcome.given_up);
  Group& group = groups_.try_emplace(head.round, Group{head.world, {}}).first->second;
  const auto earlier = group.by_rank.find(head.rank);
  const bool taken =
      earlier != group.by_rank.end() && earlier->second.message.head.client != head.client;
  if (group.world != head.world || taken) {
    outcome.refusal = Status::InvalidArgument(
        "push of round " + std::to_string(head.round) + ", rank " + std::to_string(head.rank) +
        " of " + std::to_string(head.world) +
        (taken ? ": another client has pushed as this rank"
               : ": others pushed it as a group of " + std::to_string(group.world)) +
        "; give each worker its own rank and all the same world");
    outcome.refused.push_back(std::move(contribution));
    return outcome;
  }
  if (earlier != group.by_rank.end()) {
    outcome.given_up.push_back(std::move(earlier->second));
    group.by_rank.erase(earlier);
  }
  group.by_rank.emplace(head.rank, std::move(contribution));
  if (group.by_rank.size() == group.world) {
    MoveOut(groups_.extract(head.round), outcome.complete);
  }
  GiveUpBefore(head.round, head.rank, outcome.given_up);
  return outcome;
}

std::vector<Contribution> PushGroups::TakeAll() {
  std::vector<Contribution> all;
  const MutexLock lock(mutex_);
  while (!groups_.empty()) MoveOut(groups_.extract(groups_.begin()), all);
  return all;
}

void JoinedPush::Add(const Kernels& kernels, const PushMessage& push, const SlotSet& done) {
  for (const SectionView& section : push.sections) {
    auto at = std::find_if(sections_.begin(), sections_.end(),
                           [&](const SectionView& s) { return s.salt == section.salt; });
    if (at == sections_.end()) {
      at = sections_.insert(at, {Section{section.salt, section.dim, 0}});
      keys_.emplace_back();
      grads_.emplace_back();
    }
    const auto which = static_cast<size_t>(at - sections_.begin());
    std::vector<float>& grads = grads_[which];
    const auto append = [&](uint32_t first, uint32_t count) {
      const uint64_t* keys = section.keys + first;
      keys_[which].insert(keys_[which].end(), keys, keys + count);
      const size_t before = grads.size();
      grads.resize(before + size_t{count} * section.dim);
      const size_t row_bytes = ValueBytes(section.encoding, section.dim);
      DecodeRows(kernels, section.encoding, section.grads + first * row_bytes, count, section.dim,
                 grads.data() + before);
    };
    if (done.empty()) {
      append(0, section.count);
      continue;
    }
    for (uint32_t i = 0; i < section.count; ++i) {
      if (!done.Contains(SlotOf(MixKey(section.salt, section.keys[i])))) append(i, 1);
    }
  }
}

const std::vector<SectionView>& JoinedPush::sections() {
  for (size_t i = 0; i < sections_.size(); ++i) {
    sections_[i].count = static_cast<uint32_t>(keys_[i].size());
    sections_[i].keys = keys_[i].data();
    sections_[i].grads = reinterpret_cast<const std::byte*>(grads_[i].data());
  }
  return sections_;
}

}  // namespace embery
