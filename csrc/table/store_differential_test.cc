// Random operations on a store and on a naive model of it, which have to agree bit by bit.
//
// An operation is one key of a batch. Their number, over all cases, is EMBERY_TEST_OPERATIONS; else
// 10^8 where EMBERY_TEST_LONG is 1; else what takes a second or two. EMBERY_TEST_SEED changes them.
#include <array>
#include <random>

#include "table/store_model.h"

namespace embery {
namespace {

constexpr uint64_t kShortOperations = 2'000'000;
constexpr uint64_t kLongOperations = 100'000'000;
constexpr uint64_t kCases = 5;
constexpr uint64_t kSalt = 0x9ae16a3b2f90404f;

uint64_t OperationsOfACase() {
  return testing::OperationsOfTest(kShortOperations, kLongOperations) / kCases;
}

// Keys of a case: kind ones, the extreme ones, and crowds with one tag in the first, a middle and
// the last bucket.
Keys MixedUniverse(size_t count, std::mt19937_64& random) {
  Keys keys = {0, ~uint64_t{0}, kSalt, UnmixKey(kSalt, {~uint64_t{0}})};
  constexpr std::array<uint32_t, 5> kTags = {0, 1, 0x80000000u, 0xfffffffeu, 0xffffffffu};
  for (const uint32_t group : {0u, 17u, kGroupCount - 1}) {
    for (const uint32_t tag : kTags) {
      for (uint32_t low = 100; low < 120; ++low) {
        keys.push_back(UnmixKey(kSalt, JoinMixed(group, tag, low)));
      }
    }
  }
  while (keys.size() < count) keys.push_back(random());
  std::shuffle(keys.begin(), keys.end(), random);
  return keys;
}

// So many keys in one group that its index grows while batches come.
Keys CrowdedUniverse(size_t count, std::mt19937_64& random) {
  Keys keys;
  while (keys.size() < count) {
    keys.push_back(UnmixKey(kSalt, {(random() >> kGroupBits) | uint64_t{5} << (64 - kGroupBits)}));
  }
  return keys;
}

class Comparison {
 public:
  Comparison(const TableSpec& spec, int threads, Keys universe, uint64_t seed)
      : fixture_(spec, threads), model_(spec), universe_(std::move(universe)), random_(seed) {}

  void Run(uint64_t operations) {
    const int failures = testing::Failures().load();
    uint64_t done = 0;
    for (uint64_t batch = 0; done < operations; ++batch) {
      const Keys keys = RandomKeys();
      Step(keys);
      if (batch % 1024 == 1023) CheckAll();
      if (testing::Failures().load() != failures) {
        std::fprintf(stderr, "batch %llu of the case; stopping\n",
                     static_cast<unsigned long long>(batch));
        return;
      }
      done += keys.size();
    }
    CheckAll();
  }

 private:
  // A few or some hundreds; now and then enough for several threads. Low numbers come more often.
  Keys RandomKeys() {
    Keys keys(random_() % 512 == 0 ? 9000 : 1 + random_() % (uint64_t{2} << random_() % 9));
    for (uint64_t& key : keys) {
      const uint64_t range = universe_.size() >> random_() % 6;
      key = universe_[random_() % std::max<uint64_t>(range, 1)];
    }
    return keys;
  }

  // Small integers, whose sums are exact; a few are none.
  Values RandomGrads(size_t count) {
    Values grads(count);
    for (float& grad : grads) grad = static_cast<float>(static_cast<int>(random_() % 17) - 8);
    if (random_() % 32 == 0) grads[random_() % count] = random_() % 2 == 0 ? NAN : -INFINITY;
    return grads;
  }

  void Step(const Keys& keys) {
    const uint64_t choice = random_() % 100;
    if (choice < 40) {
      ComparePull(keys, PullMode::kTrain);
    } else if (choice < 70) {
      const Values grads = RandomGrads(keys.size() * fixture_.dim());
      fixture_.Push(keys, grads);
      model_.Push(keys, grads, fixture_.now_s());
    } else if (choice < 84) {
      ComparePull(keys, PullMode::kEval);
    } else if (choice < 98) {
      ComparePeek(keys);
    } else {
      fixture_.set_now_s(fixture_.now_s() + static_cast<uint32_t>(random_() % 8));
      if (random_() % 64 == 0) Restore();
    }
  }

  void ComparePull(const Keys& keys, PullMode mode) {
    CHECK_TRUE(fixture_.Pull(keys, mode) == model_.Pull(keys, mode, fixture_.now_s()));
  }

  void ComparePeek(const Keys& keys) {
    Values out(keys.size() * fixture_.dim(), 12345);
    Values expected = out;
    const std::vector<uint8_t> absent = fixture_.Peek(keys, out);
    CHECK_TRUE(absent == model_.Peek(keys, expected, fixture_.now_s()));
    CHECK_TRUE(out == expected);
  }

  // Saving and restoring must go unnoticed.
  void Restore() {
    const std::vector<SavedRow> rows = fixture_.Rows();
    const std::vector<SlotGroup::State> states = fixture_.States();
    fixture_.Restore(rows, states, fixture_.table().step());
    CHECK_TRUE(fixture_.Rows() == rows);
  }

  void CheckAll() {
    const bool expires = fixture_.table().spec().eviction.kind == EvictionSpec::Kind::kTtl;
    if (expires) {
      (void)fixture_.table().Evict({model_.step() + 1, fixture_.now_s()}, Table::Effort::kThorough);
      model_.EvictExpired(fixture_.now_s());
    }
    std::vector<SavedRow> rows = fixture_.Rows();
    std::vector<SavedRow> expected = model_.Rows();
    std::vector<Lsn> slot_lsns;
    for (const SlotGroup::State& state : fixture_.States()) {
      slot_lsns.insert(slot_lsns.end(), state.slot_lsns.begin(), state.slot_lsns.end());
    }
    if (expires) {
      for (SavedRow& row : rows) row.lsn = 0;
      for (SavedRow& row : expected) row.lsn = 0;
    } else {
      CHECK_TRUE(slot_lsns == model_.slot_lsns());
    }
    CHECK_TRUE(rows == expected);
    CheckCounts();
  }

  void CheckCounts() {
    const Table::Stats stats = fixture_.stats();
    const Counters& expected = model_.counters();
    CHECK_EQ(stats.rows, model_.rows());
    CHECK_EQ(stats.candidates, model_.candidates());
    CHECK_EQ(stats.counters.admitted, expected.admitted);
    CHECK_EQ(stats.counters.rejected, expected.rejected);
    CHECK_EQ(stats.counters.evicted, expected.evicted);
    CHECK_EQ(stats.counters.deleted, expected.deleted);
    CHECK_EQ(stats.counters.non_finite, expected.non_finite);
    CHECK_EQ(stats.counters.updates, expected.updates);
    CHECK_EQ(stats.tombstones + stats.tombstones_lost, expected.deleted);
    CHECK_EQ(fixture_.table().step(), model_.step());
  }

  StoreFixture fixture_;
  StoreModel model_;
  Keys universe_;
  std::mt19937_64 random_;
};

void Compare(const TableSpec& spec, int threads, size_t keys,
             Keys (*universe)(size_t, std::mt19937_64&)) {
  const uint64_t seed = testing::NumberFromEnvironment("EMBERY_TEST_SEED", 1);
  std::mt19937_64 random(seed);
  Comparison(spec, threads, universe(keys, random), seed).Run(OperationsOfACase());
}

TEST(APlainTableAgreesWithItsModel) { Compare(PlainSpec(2), 1, 30000, MixedUniverse); }

TEST(AGroupThatGrowsUnderWayAgreesWithItsModel) {
  Compare(PlainSpec(1), 1, 60000, CrowdedUniverse);
}

TEST(MinCountAndLruAgreeWithTheirModel) {
  TableSpec spec = PlainSpec(3);
  spec.optimizer = {.kind = OptimizerKind::kAdam,
                    .lr = 0.1f,
                    .weight_decay = 0.01f,
                    .eps = 1e-6f,
                    .beta1 = 0.9,
                    .beta2 = 0.999};
  spec.initializer = {.kind = InitializerKind::kNormal, .a = 0.5, .seed = 3};
  spec.admission = {.kind = AdmissionSpec::Kind::kMinCount, .min_count = 3};
  spec.eviction = {.kind = EvictionSpec::Kind::kLru, .rows_max = 700};
  Compare(spec, 2, 3000, MixedUniverse);
}

TEST(ProbabilityAndLfuAgreeWithTheirModel) {
  TableSpec spec = PlainSpec(17);
  spec.optimizer = {.kind = OptimizerKind::kRowwiseAdagrad, .lr = 0.1f, .eps = 1e-8f};
  spec.initializer = {.kind = InitializerKind::kUniform, .a = 0.5, .seed = 3};
  spec.admission = {.kind = AdmissionSpec::Kind::kProbability, .probability = 0.3, .seed = 8};
  spec.eviction = {.kind = EvictionSpec::Kind::kLfu, .rows_max = 500};
  Compare(spec, 2, 2000, MixedUniverse);
}

TEST(TimeToLiveAgreesWithItsModel) {
  TableSpec spec = PlainSpec(4);
  spec.optimizer = {.kind = OptimizerKind::kFtrl, .lr = 0.1f, .beta = 1.0f, .l1 = 0.5f, .l2 = 0.1f};
  spec.initializer = {.kind = InitializerKind::kTruncatedNormal, .a = 0.5, .seed = 3};
  spec.admission = {.kind = AdmissionSpec::Kind::kMinCount, .min_count = 2};
  spec.eviction = {.kind = EvictionSpec::Kind::kTtl, .ttl_s = 40};
  Compare(spec, 1, 10000, MixedUniverse);
}

}  // namespace
}  // namespace embery

EMBERY_TEST_MAIN()
