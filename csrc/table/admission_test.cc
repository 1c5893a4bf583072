#include "table/admission.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>

#include "base/testing.h"

namespace embery {
namespace {

constexpr uint64_t kSalt = 0x1234;

Admission MinCount(uint16_t count) {
  return Admission({.kind = AdmissionSpec::Kind::kMinCount, .min_count = count});
}

bool See(Admission& admission, uint64_t key, Sighting sighting, uint64_t operation) {
  return admission.Admit(MixKey(kSalt, key), key, sighting, operation, 1);
}

TEST(WithoutAPolicyEveryKeyIsAdmitted) {
  Admission admission{AdmissionSpec{}};
  for (const uint64_t key : {uint64_t{0}, ~uint64_t{0}}) {
    CHECK_TRUE(See(admission, key, Sighting::kPull, 1));
  }
  CHECK_EQ(admission.size(), size_t{0});
}

TEST(AKeyIsAdmittedWhenItsPullsReachTheMinimum) {
  Admission admission = MinCount(3);
  CHECK_TRUE(!See(admission, 5, Sighting::kPull, 1));
  CHECK_TRUE(!See(admission, 5, Sighting::kPull, 2));
  CHECK_EQ(admission.size(), size_t{1});
  CHECK_TRUE(See(admission, 5, Sighting::kPull, 3));
  CHECK_EQ(admission.size(), size_t{0});
  // Admitted once is not admitted for ever: after an eviction the count starts anew.
  CHECK_TRUE(!See(admission, 5, Sighting::kPull, 4));
}

TEST(AKeyCountsOnceAnOperation) {
  Admission admission = MinCount(2);
  for (int i = 0; i < 10; ++i) CHECK_TRUE(!See(admission, 5, Sighting::kPush, 7));
  CHECK_TRUE(See(admission, 5, Sighting::kPush, 8));
}

TEST(PullsAndPushesAreCountedApart) {
  Admission admission = MinCount(2);
  CHECK_TRUE(!See(admission, 5, Sighting::kPull, 1));
  CHECK_TRUE(!See(admission, 5, Sighting::kPush, 2));
  CHECK_TRUE(See(admission, 5, Sighting::kPush, 3));
}

TEST(AMinimumOfOneAdmitsAtFirstSight) {
  Admission admission = MinCount(1);
  CHECK_TRUE(See(admission, 5, Sighting::kPull, 1));
  CHECK_EQ(admission.size(), size_t{0});
}

TEST(CandidatesAreSavedInOrderAndRestored) {
  Admission admission = MinCount(3);
  for (uint64_t key = 0; key < 100; ++key) (void)See(admission, key, Sighting::kPull, key + 1);
  for (uint64_t key = 0; key < 100; key += 3) (void)See(admission, key, Sighting::kPush, 200);
  const std::vector<Candidate> saved = admission.Export();
  CHECK_EQ(saved.size(), size_t{100});
  CHECK_TRUE(std::is_sorted(saved.begin(), saved.end(),
                            [](const auto& a, const auto& b) { return a.mixed < b.mixed; }));
  Admission restored = MinCount(3);
  for (const Candidate& candidate : saved) {
    const uint64_t key = UnmixKey(kSalt, {candidate.mixed});
    CHECK_EQ(candidate.pulls, 1);
    CHECK_EQ(candidate.pushes, key % 3 == 0 ? 1 : 0);
    CHECK_EQ(candidate.last_operation, key % 3 == 0 ? 200 : key + 1);
    restored.Import(candidate);
  }
  for (uint64_t operation : std::initializer_list<uint64_t>{301, 302}) {
    for (uint64_t key = 0; key < 100; ++key) {
      CHECK_EQ(See(restored, key, Sighting::kPull, operation),
               See(admission, key, Sighting::kPull, operation));
    }
  }
  CHECK_EQ(restored.size(), size_t{0});
}

TEST(TooManyCandidatesMakeTheOldestForgotten) {
  constexpr uint64_t kAtMost = uint64_t{1} << 21;
  Admission admission = MinCount(2);
  uint64_t seen = 0;
  while (admission.forgotten() == 0 && seen < kAtMost) {
    (void)See(admission, seen, Sighting::kPull, seen + 1);
    ++seen;
  }
  REQUIRE_TRUE(admission.forgotten() > 0);
  CHECK_EQ(admission.size() + admission.forgotten(), seen);
  for (const Candidate& candidate : admission.Export()) {
    CHECK_TRUE(candidate.last_operation > admission.forgotten());
  }
  CHECK_TRUE(See(admission, seen - 1, Sighting::kPull, seen + 1));
  CHECK_TRUE(!See(admission, 0, Sighting::kPull, seen + 1));
}

TEST(AProbabilityAdmitsItsShareOfKeys) {
  for (const double probability : {0.0, 0.1, 0.75, 1.0}) {
    Admission admission(
        {.kind = AdmissionSpec::Kind::kProbability, .probability = probability, .seed = 9});
    constexpr uint64_t kKeys = 20000;
    double admitted = 0;
    for (uint64_t key = 0; key < kKeys; ++key) {
      admitted += See(admission, key, Sighting::kPull, 1) ? 1 : 0;
    }
    // Within six standard errors, of at most half a key each.
    CHECK_TRUE(std::abs(admitted / kKeys - probability) <= 6 * 0.5 / 141);
    CHECK_EQ(admission.size(), size_t{0});
  }
}

TEST(AProbabilityDrawsOnceAKeyAndStep) {
  Admission admission({.kind = AdmissionSpec::Kind::kProbability, .probability = 0.5, .seed = 9});
  size_t changed = 0;
  for (uint64_t key = 0; key < 1000; ++key) {
    const MixedKey mixed = MixKey(kSalt, key);
    const bool first = admission.Admit(mixed, key, Sighting::kPull, 1, 1);
    CHECK_EQ(admission.Admit(mixed, key, Sighting::kPush, 2, 1), first);
    changed += admission.Admit(mixed, key, Sighting::kPull, 3, 2) != first ? 1 : 0;
  }
  CHECK_TRUE(changed > 400 && changed < 600);
}

}  // namespace
}  // namespace embery

EMBERY_TEST_MAIN()
