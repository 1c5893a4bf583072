// The keys that admission holds back, and how often they were seen.
//
// MinCount: a key is admitted by the call in which the number of training pulls, or that of pushes,
// that contained it reaches the minimum. Probability: drawn once a key and step. Candidates that
// were not seen for longest are forgotten, and counted, when there are too many.
//
// Thread-safety: none of its own; guarded by the group's lock. Ownership: a value.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <unordered_map>
#include <vector>

#include "base/hash.h"
#include "table/spec.h"

namespace embery {

enum class Sighting : uint8_t { kPull, kPush };

struct Candidate {
  uint64_t mixed;
  uint64_t last_operation;
  uint16_t pulls;
  uint16_t pushes;

  friend bool operator==(const Candidate&, const Candidate&) = default;
};

class Admission {
 public:
  explicit Admission(const AdmissionSpec& spec) : spec_(spec) {}

  // Notes that `operation` (they ascend) contains the absent `mixed` key of `key`, once however
  // often it asks; true if the key is admitted now, and no longer a candidate.
  bool Admit(MixedKey mixed, uint64_t key, Sighting sighting, uint64_t operation, uint64_t step);

  // Candidates by ascending mixed key.
  std::vector<Candidate> Export() const;
  void Import(const Candidate& candidate);
  // Null if it is none.
  std::optional<Candidate> Find(uint64_t mixed) const;
  void Forget(uint64_t mixed) { candidates_.erase(mixed); }
  // Whether keys become candidates at all.
  bool counts() const { return spec_.kind == AdmissionSpec::Kind::kMinCount; }

  size_t size() const { return candidates_.size(); }
  uint64_t forgotten() const { return forgotten_; }
  void set_forgotten(uint64_t forgotten) { forgotten_ = forgotten; }

 private:
  struct Counts {
    uint64_t last_operation = 0;
    uint64_t last_counted[2] = {0, 0};  // Operation that was counted last, by Sighting.
    uint16_t seen[2] = {0, 0};
  };

  void ForgetOldest();

  AdmissionSpec spec_;
  std::unordered_map<uint64_t, Counts> candidates_;
  uint64_t forgotten_ = 0;
};

}  // namespace embery
