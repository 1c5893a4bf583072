#include "table/admission.h"

#include <algorithm>

#include "base/random.h"

namespace embery {
namespace {

// Of one group: 16 million candidates a table at the most.
constexpr size_t kCandidatesMax = size_t{1} << 18;

}  // namespace

bool Admission::Admit(MixedKey mixed, uint64_t key, Sighting sighting, uint64_t operation,
                      uint64_t step) {
  switch (spec_.kind) {
    case AdmissionSpec::Kind::kAll:
      return true;
    case AdmissionSpec::Kind::kProbability:
      return RandomStream(spec_.seed, key).UnitAt(step) < spec_.probability;
    case AdmissionSpec::Kind::kMinCount:
      break;
  }
  if (candidates_.size() >= kCandidatesMax && !candidates_.contains(mixed.bits)) ForgetOldest();
  Counts& counts = candidates_[mixed.bits];
  const auto kind = static_cast<size_t>(sighting);
  if (counts.last_counted[kind] != operation) {
    counts.last_counted[kind] = operation;
    counts.last_operation = operation;
    ++counts.seen[kind];
  }
  if (counts.seen[kind] < spec_.min_count) return false;
  candidates_.erase(mixed.bits);
  return true;
}

void Admission::ForgetOldest() {
  std::vector<Candidate> all = Export();
  const auto middle = all.begin() + static_cast<ptrdiff_t>(all.size() / 2);
  std::nth_element(all.begin(), middle, all.end(), [](const Candidate& a, const Candidate& b) {
    return a.last_operation != b.last_operation ? a.last_operation < b.last_operation
                                                : a.mixed < b.mixed;
  });
  for (auto it = all.begin(); it != middle; ++it) candidates_.erase(it->mixed);
  forgotten_ += static_cast<uint64_t>(middle - all.begin());
}

std::vector<Candidate> Admission::Export() const {
  std::vector<Candidate> all;
  all.reserve(candidates_.size());
  for (const auto& [mixed, counts] : candidates_) {
    all.push_back({mixed, counts.last_operation, counts.seen[0], counts.seen[1]});
  }
  std::sort(all.begin(), all.end(),
            [](const Candidate& a, const Candidate& b) { return a.mixed < b.mixed; });
  return all;
}

std::optional<Candidate> Admission::Find(uint64_t mixed) const {
  const auto at = candidates_.find(mixed);
  if (at == candidates_.end()) return std::nullopt;
  const Counts& counts = at->second;
  return Candidate{mixed, counts.last_operation, counts.seen[0], counts.seen[1]};
}

void Admission::Import(const Candidate& candidate) {
  if (candidates_.size() >= kCandidatesMax && !candidates_.contains(candidate.mixed)) {
    ForgetOldest();
  }
  Counts& counts = candidates_[candidate.mixed];
  counts.last_operation = candidate.last_operation;
  counts.seen[0] = candidate.pulls;
  counts.seen[1] = candidate.pushes;
}

}  // namespace embery
