// What a store does with one table, one rule a test.
#include "table/store.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <numeric>
#include <random>

#include "table/store_fixture.h"

namespace embery {
namespace {

constexpr uint64_t kLast = ~uint64_t{0};

TableSpec ConstantSpec(uint32_t dim, double value) {
  TableSpec spec = PlainSpec(dim);
  spec.initializer = {.kind = InitializerKind::kConstant, .a = value};
  return spec;
}

Keys Range(uint64_t begin, uint64_t end) {
  Keys keys(end - begin);
  std::iota(keys.begin(), keys.end(), begin);
  return keys;
}

// ---- pulls --------------------------------------------------------------------------------------

TEST(ATrainingPullInsertsAndAnEvaluationPullReadsZeros) {
  StoreFixture fixture(ConstantSpec(2, 0.5));
  CHECK_TRUE(fixture.Pull({1, 2}, PullMode::kEval) == Values(4, 0.0f));
  CHECK_EQ(fixture.stats().rows, uint64_t{0});
  CHECK_TRUE(fixture.Pull({1}) == Values(2, 0.5f));
  CHECK_TRUE((fixture.Pull({1, 2}, PullMode::kEval) == Values{0.5f, 0.5f, 0.0f, 0.0f}));
  CHECK_EQ(fixture.stats().rows, uint64_t{1});
  CHECK_EQ(fixture.stats().counters.admitted, uint64_t{1});
}

TEST(APeekLeavesNoTrace) {
  TableSpec spec = ConstantSpec(1, 0.5);
  spec.admission = {.kind = AdmissionSpec::Kind::kMinCount, .min_count = 2};
  StoreFixture fixture(spec);
  (void)fixture.Pull({1});
  (void)fixture.Pull({1, 2});
  const std::vector<SavedRow> rows = fixture.Rows();
  for (int i = 0; i < 3; ++i) {
    Values out = {7, 7, 7, 7};
    CHECK_TRUE((fixture.Peek({3, 1, 2, 1}, out) == std::vector<uint8_t>{1, 0, 1, 0}));
    CHECK_TRUE((out == Values{7, 0.5f, 7, 0.5f}));
  }
  CHECK_TRUE(fixture.Rows() == rows);
  CHECK_EQ(fixture.stats().candidates, uint64_t{1});
  CHECK_EQ(fixture.stats().rows, uint64_t{1});
}

TEST(EveryKeyIsLegal) {
  StoreFixture fixture(PlainSpec(1));
  const uint64_t salt = fixture.table().spec().salt;
  // The last two are those that mix to 0 and to all ones.
  const Keys keys = {0, 1, kLast, kLast - 1, uint64_t{1} << 63, salt, UnmixKey(salt, {kLast})};
  Values grads(keys.size());
  std::iota(grads.begin(), grads.end(), -7.0f);
  fixture.Push(keys, grads);
  const Values out = fixture.Pull(keys, PullMode::kEval);
  for (size_t i = 0; i < keys.size(); ++i) CHECK_EQ(out[i], -grads[i]);
}

TEST(EmptyBatchesChangeNothing) {
  StoreFixture fixture(PlainSpec(3));
  CHECK_TRUE(fixture.Pull({}).empty());
  CHECK_TRUE(fixture.store().Pull({}, PullMode::kTrain, 1).ok());
  CHECK_TRUE(fixture.store().Push({}, 1).ok());
  CHECK_EQ(fixture.stats().rows, uint64_t{0});
}

// ---- pushes -------------------------------------------------------------------------------------

TEST(DuplicatesOfAPushAreSummedInOrderAndTakeOneStep) {
  StoreFixture fixture(PlainSpec(1));
  // In this order the sum is 1: the large ones cancel before the small one is added.
  fixture.Push({5, 6, 5, 5}, {1e8f, 2, -1e8f, 1});
  CHECK_TRUE((fixture.Pull({5, 6}) == Values{-1, -2}));
  for (const SavedRow& row : fixture.Rows()) CHECK_EQ(row.updates, 1u);
  CHECK_EQ(fixture.stats().counters.updates, uint64_t{2});
  CHECK_EQ(fixture.table().step(), 1u);
}

TEST(APushInsertsAnAbsentKeyWithItsFirstValueAndUpdatesIt) {
  StoreFixture fixture(ConstantSpec(2, 10));
  fixture.Push({1}, {1, 2});
  CHECK_TRUE((fixture.Pull({1}, PullMode::kEval) == Values{9, 8}));
  CHECK_EQ(fixture.stats().counters.admitted, uint64_t{1});
}

TEST(NonFiniteGradientsAreCountedAndLeaveTheRowAsItWas) {
  StoreFixture fixture(PlainSpec(2));
  fixture.Push({1, 2, 3, 1}, {1, NAN, 2, 2, INFINITY, 3, 1, 1});
  CHECK_TRUE((fixture.Pull({1, 2, 3}, PullMode::kEval) == Values{0, 0, -2, -2, 0, 0}));
  CHECK_EQ(fixture.stats().counters.non_finite, uint64_t{2});
  CHECK_EQ(fixture.stats().rows, uint64_t{1});
}

TEST(NonFiniteGradientsRaiseBeforeAnythingChanges) {
  TableSpec spec = PlainSpec(1);
  spec.non_finite = NonFinite::kRaise;
  StoreFixture fixture(spec);
  const Status status = fixture.TryPush({4, 77, 4}, {1, -INFINITY, 1});
  CHECK_TRUE(status.code() == StatusCode::kInvalidArgument);
  CHECK_TRUE(status.message().find("'t'") != std::string::npos);
  CHECK_TRUE(status.message().find("77") != std::string::npos);
  CHECK_EQ(fixture.stats().rows, uint64_t{0});
  CHECK_EQ(fixture.table().step(), 0u);
}

// ---- tables -------------------------------------------------------------------------------------

TEST(AnEqualTableIsTheSameAndADifferentOneAnError) {
  StoreFixture fixture(PlainSpec(2));
  CHECK_EQ(fixture.store().CreateTable(PlainSpec(2)).value(), fixture.id());
  const Status status = fixture.store().CreateTable(PlainSpec(3)).status();
  CHECK_TRUE(status.code() == StatusCode::kSchemaMismatch);
  CHECK_TRUE(status.message().find("'t'") != std::string::npos);
}

TEST(AnUnknownTableIsAnErrorBeforeAnythingChanges) {
  StoreFixture fixture(PlainSpec(1));
  const uint64_t key = 1;
  float value = 7;
  const PullRequest pulls[] = {{fixture.id(), &key, 1, RowsOut(&value), nullptr},
                               {fixture.id() + 1, &key, 1, RowsOut(&value), nullptr}};
  const PushRequest pushes[] = {{fixture.id(), &key, 1, &value}, {99, &key, 1, &value}};
  CHECK_TRUE(fixture.store().Pull(pulls, PullMode::kTrain, 1).status().code() ==
             StatusCode::kTableNotFound);
  CHECK_TRUE(fixture.store().Push(pushes, 1).code() == StatusCode::kTableNotFound);
  CHECK_EQ(fixture.stats().rows, uint64_t{0});
  CHECK_EQ(value, 7.0f);
}

TEST(APushNamesATableOnce) {
  StoreFixture fixture(PlainSpec(1));
  const uint64_t key = 1;
  const float grad = 1;
  const PushRequest request{fixture.id(), &key, 1, &grad};
  const PushRequest twice[] = {request, request};
  CHECK_TRUE(fixture.store().Push(twice, 1).code() == StatusCode::kInvalidArgument);
  CHECK_EQ(fixture.table().step(), 0u);
}

TEST(OneCallServesSeveralTables) {
  StoreFixture fixture(PlainSpec(1), 2);
  TableSpec other = ConstantSpec(3, 4);
  other.name = "other";
  const TableId other_id = fixture.store().CreateTable(other).value();
  const Keys keys = Range(0, 20000);
  const Values grads(3 * keys.size(), 1);
  const PushRequest pushes[] = {{fixture.id(), keys.data(), keys.size(), grads.data()},
                                {other_id, keys.data(), keys.size(), grads.data()}};
  CHECK_TRUE(fixture.store().Push(pushes, 1).ok());
  Values out(keys.size());
  Values other_out(3 * keys.size());
  const PullRequest pulls[] = {
      {fixture.id(), keys.data(), keys.size(), RowsOut(out.data()), nullptr},
      {other_id, keys.data(), keys.size(), RowsOut(other_out.data()), nullptr}};
  CHECK_TRUE(fixture.store().Pull(pulls, PullMode::kEval, 1).ok());
  CHECK_TRUE(out == Values(keys.size(), -1));
  CHECK_TRUE(other_out == Values(3 * keys.size(), 3));
}

// ---- rows of all kinds --------------------------------------------------------------------------

TEST(RowsOfEveryOptimizerAndTypeHoldTheShortestAndTheLongestDim) {
  for (const uint32_t dim : {1u, 3u, 4096u}) {
    for (size_t type = 0; type < kValueTypes; ++type) {
      for (size_t kind = 0; kind < kOptimizerKinds; ++kind) {
        TableSpec spec = ConstantSpec(dim, 1);
        spec.value_type = static_cast<ValueType>(type);
        spec.optimizer = {.kind = static_cast<OptimizerKind>(kind),
                          .lr = 0.25f,
                          .eps = 1e-8f,
                          .beta1 = 0.9,
                          .beta2 = 0.99,
                          .beta = 1.0f};
        StoreFixture fixture(spec);
        const Keys keys = Range(0, 200);
        CHECK_TRUE(fixture.Pull(keys) == Values(keys.size() * dim, 1));
        fixture.Push({keys[0], keys[199]}, Values(size_t{2} * dim, 1));
        const Values out = fixture.Pull(keys, PullMode::kEval);
        CHECK_TRUE(std::all_of(out.begin(), out.begin() + dim, [](float v) { return v < 1; }));
        CHECK_TRUE(std::all_of(out.begin() + dim, out.end() - dim, [](float v) { return v == 1; }));
        CHECK_TRUE(std::equal(out.begin(), out.begin() + dim, out.end() - dim) ||
                   type != static_cast<size_t>(ValueType::kFloat32));
      }
    }
  }
}

// ---- admission ----------------------------------------------------------------------------------

TEST(AKeyThatIsHeldBackReadsAsItsFirstValueInItsStorageType) {
  for (size_t type = 0; type < kValueTypes; ++type) {
    for (const uint32_t dim : {1u, 2u, 5u}) {
      TableSpec spec = PlainSpec(dim);
      spec.value_type = static_cast<ValueType>(type);
      spec.initializer = {.kind = InitializerKind::kUniform, .a = 0.1, .seed = 3};
      StoreFixture admitting(spec);
      spec.admission = {.kind = AdmissionSpec::Kind::kMinCount, .min_count = 2};
      StoreFixture holding(spec);
      const Keys keys = Range(0, 100);
      CHECK_TRUE(holding.Pull(keys) == admitting.Pull(keys));
      CHECK_EQ(holding.stats().rows, uint64_t{0});
      CHECK_TRUE(holding.Pull(keys) == admitting.Pull(keys));
      CHECK_EQ(holding.stats().rows, uint64_t{100});
    }
  }
}

TEST(PushesToAKeyThatIsHeldBackAreCountedAsRejected) {
  TableSpec spec = PlainSpec(1);
  spec.admission = {.kind = AdmissionSpec::Kind::kMinCount, .min_count = 3};
  StoreFixture fixture(spec);
  fixture.Push({1, 1, 2}, {1, 1, 1});
  fixture.Push({1}, {1});
  CHECK_EQ(fixture.stats().counters.rejected, uint64_t{3});
  CHECK_EQ(fixture.stats().candidates, uint64_t{2});
  fixture.Push({1}, {4});
  CHECK_TRUE(fixture.Pull({1}, PullMode::kEval) == Values{-4});
  CHECK_EQ(fixture.stats().counters.rejected, uint64_t{3});
}

// ---- eviction -----------------------------------------------------------------------------------

TEST(LruKeepsTheRowsThatWereTouchedLast) {
  TableSpec spec = PlainSpec(1);
  spec.eviction = {.kind = EvictionSpec::Kind::kLru, .rows_max = 3};
  StoreFixture fixture(spec);
  for (const uint64_t key : std::initializer_list<uint64_t>{1, 2, 3, 1, 4})
    fixture.Push({key}, {1});
  Values out(4, 7);
  CHECK_TRUE((fixture.Peek({1, 2, 3, 4}, out) == std::vector<uint8_t>{0, 1, 0, 0}));
  CHECK_EQ(fixture.stats().counters.evicted, uint64_t{1});
  CHECK_EQ(fixture.stats().counters.deleted, uint64_t{1});
  CHECK_EQ(fixture.stats().tombstones, uint64_t{1});
  // A row that comes back is a new one.
  CHECK_TRUE(fixture.Pull({2}) == Values{0});
}

TEST(LfuKeepsTheRowsThatWereUpdatedMostAndThoseOfTheStepUnderWay) {
  TableSpec spec = PlainSpec(1);
  spec.eviction = {.kind = EvictionSpec::Kind::kLfu, .rows_max = 3};
  StoreFixture fixture(spec);
  for (const uint64_t key : std::initializer_list<uint64_t>{1, 1, 1, 2, 2, 3, 4})
    fixture.Push({key}, {1});
  Values out(4, 7);
  CHECK_TRUE((fixture.Peek({1, 2, 3, 4}, out) == std::vector<uint8_t>{0, 0, 1, 0}));
}

TEST(ALargeLruTableStaysWithinItsBoundAndCountsEveryRow) {
  constexpr uint64_t kRowsMax = 20000;
  TableSpec spec = PlainSpec(1);
  spec.eviction = {.kind = EvictionSpec::Kind::kLru, .rows_max = kRowsMax};
  StoreFixture fixture(spec, 2);
  uint64_t pulled = 0;
  for (; pulled < 100000; pulled += 500) {
    (void)fixture.Pull(Range(pulled, pulled + 500));
    fixture.Push(Range(pulled, pulled + 500), Values(500, 1));
    const Table::Stats stats = fixture.stats();
    CHECK_TRUE(stats.rows <= kRowsMax);
    CHECK_EQ(stats.rows + stats.counters.evicted, stats.counters.admitted);
  }
  CHECK_TRUE(fixture.stats().rows > kRowsMax * 9 / 10);
  CHECK_EQ(fixture.stats().counters.admitted, pulled);
  // What is left are the latest.
  for (const SavedRow& row : fixture.Rows()) CHECK_TRUE(row.key >= pulled - kRowsMax - 500);
}

TEST(AnExpiredRowReadsAsAbsentAndStartsAnew) {
  TableSpec spec = ConstantSpec(1, 5);
  spec.eviction = {.kind = EvictionSpec::Kind::kTtl, .ttl_s = 100};
  StoreFixture fixture(spec);
  fixture.Push({1, 2, 3}, {1, 1, 1});
  fixture.set_now_s(fixture.now_s() + 60);
  fixture.Push({2}, {1});
  fixture.set_now_s(fixture.now_s() + 40);
  CHECK_TRUE((fixture.Pull({1, 2}, PullMode::kEval) == Values{0, 3}));
  Values out(2, 7);
  CHECK_TRUE((fixture.Peek({1, 2}, out) == std::vector<uint8_t>{1, 0}));
  CHECK_TRUE((fixture.Pull({1, 2}) == Values{5, 3}));
  (void)fixture.table().Evict({fixture.table().step() + 1, fixture.now_s()},
                              Table::Effort::kThorough);
  CHECK_EQ(fixture.stats().rows, uint64_t{2});
  CHECK_EQ(fixture.stats().counters.evicted, uint64_t{2});
}

TEST(APushToAnExpiredRowStartsFromItsFirstValue) {
  TableSpec spec = ConstantSpec(1, 5);
  spec.eviction = {.kind = EvictionSpec::Kind::kTtl, .ttl_s = 100};
  StoreFixture fixture(spec);
  fixture.Push({1}, {1});
  fixture.set_now_s(fixture.now_s() + 100);
  fixture.Push({1}, {2});
  CHECK_TRUE(fixture.Pull({1}, PullMode::kEval) == Values{3});
}

// Looked up ahead of their use, a key and its record can part: here the record of an expired row is
// given to a key that shares the low bits with a third one, which shares the tag with the first.
TEST(ARecordThatChangesHandsWithinAPushIsNotMistaken) {
  TableSpec spec = PlainSpec(1);
  spec.admission = {.kind = AdmissionSpec::Kind::kMinCount, .min_count = 2};
  spec.eviction = {.kind = EvictionSpec::Kind::kTtl, .ttl_s = 100};
  StoreFixture fixture(spec);
  const uint64_t expiring = UnmixKey(spec.salt, JoinMixed(9, 1000, 1));
  const uint64_t taking = UnmixKey(spec.salt, JoinMixed(9, 0x80000000, 2));
  const uint64_t similar = UnmixKey(spec.salt, JoinMixed(9, 1000, 2));
  fixture.Push({expiring}, {1});
  fixture.Push({expiring, taking}, {1, 1});
  fixture.set_now_s(fixture.now_s() + 100);
  fixture.Push({expiring, taking, similar}, {1, 2, 4});
  CHECK_TRUE((fixture.Pull({expiring, taking, similar}, PullMode::kEval) == Values{0, -2, 0}));
  CHECK_EQ(fixture.stats().rows, uint64_t{1});
}

TEST(AClockThatGoesBackExpiresNothing) {
  TableSpec spec = ConstantSpec(1, 5);
  spec.eviction = {.kind = EvictionSpec::Kind::kTtl, .ttl_s = 100};
  StoreFixture fixture(spec);
  fixture.Push({1}, {1});
  fixture.set_now_s(1);
  CHECK_TRUE(fixture.Pull({1}) == Values{4});
}

// ---- sequence numbers, saving, restoring --------------------------------------------------------

TEST(ACallRaisesTheNumberOfASlotOnce) {
  StoreFixture fixture(PlainSpec(1));
  const uint64_t salt = fixture.table().spec().salt;
  const auto key_of = [&](uint32_t slot, uint64_t low) {
    return UnmixKey(salt, {uint64_t{slot} << (64 - kSlotBits) | low});
  };
  const Keys keys = {key_of(0, 1), key_of(0, 2), key_of(4095, 3)};
  (void)fixture.Pull(keys);
  for (const SavedRow& row : fixture.Rows()) CHECK_EQ(row.lsn, Lsn{1});
  fixture.Push({keys[1]}, {1});
  fixture.Push({keys[2], keys[0]}, {1, 1});
  (void)fixture.Pull(keys);
  const std::vector<SavedRow> rows = fixture.Rows();
  CHECK_EQ(rows[0].lsn, Lsn{3});
  CHECK_EQ(rows[1].lsn, Lsn{2});
  CHECK_EQ(rows[2].lsn, Lsn{2});
  CHECK_EQ(fixture.States().front().slot_lsns.front(), Lsn{3});
  CHECK_EQ(fixture.States().back().slot_lsns.back(), Lsn{2});
}

TEST(VisitsCoverExactlyTheSlotsAskedForInOrder) {
  StoreFixture fixture(PlainSpec(1));
  (void)fixture.Pull(Range(0, 50000));
  const uint32_t group = 5;
  const uint32_t first = group * kSlotsPerGroup;
  size_t rows = 0;
  for (uint32_t slot = first; slot < first + kSlotsPerGroup; slot += 16) {
    uint64_t before = 0;
    fixture.table().group(group).VisitSlots(slot, slot + 16, [&](const RowView& row) {
      const MixedKey mixed = MixKey(fixture.table().spec().salt, row.key);
      CHECK_EQ(row.slot, SlotOf(mixed));
      CHECK_TRUE(row.slot >= slot && row.slot < slot + 16);
      CHECK_TRUE(mixed.bits > before);
      before = mixed.bits;
      ++rows;
    });
  }
  CHECK_EQ(rows, fixture.table().group(group).size().rows);
}

TEST(OneRowIsFoundByItsKey) {
  StoreFixture fixture(ConstantSpec(1, 2));
  fixture.Push({8}, {1});
  const auto visit = [&](uint64_t key) {
    const MixedKey mixed = MixKey(fixture.table().spec().salt, key);
    return fixture.table().group(GroupOf(mixed)).VisitRow(mixed, [&](const RowView& row) {
      CHECK_EQ(row.key, key);
      CHECK_EQ(row.updates, 1u);
    });
  };
  CHECK_TRUE(visit(8));
  CHECK_TRUE(!visit(9));
}

TableSpec BusySpec() {
  TableSpec spec = PlainSpec(5);
  spec.value_type = ValueType::kBfloat16;
  spec.optimizer = {
      .kind = OptimizerKind::kAdam, .lr = 0.01f, .eps = 1e-8f, .beta1 = 0.9, .beta2 = 0.999};
  spec.initializer = {.kind = InitializerKind::kNormal, .a = 0.1, .seed = 5};
  spec.admission = {.kind = AdmissionSpec::Kind::kMinCount, .min_count = 2};
  spec.eviction = {.kind = EvictionSpec::Kind::kLru, .rows_max = 3000};
  return spec;
}

// Pulls and pushes of many keys, some of them twice; the same for the same `seed`.
void Work(StoreFixture& fixture, uint64_t seed, int rounds) {
  std::mt19937_64 random(seed);
  for (int round = 0; round < rounds; ++round) {
    Keys keys(12000);
    for (uint64_t& key : keys) key = random() % 4000;
    Values grads(keys.size() * fixture.dim());
    for (float& grad : grads) grad = static_cast<float>(static_cast<int>(random() % 2001) - 1000);
    (void)fixture.Pull(keys);
    fixture.Push(keys, grads);
  }
}

TEST(TheBitsDoNotDependOnThreadsOrSimdTarget) {
  StoreFixture alone(BusySpec(), 1, "baseline");
  Work(alone, 1, 8);
  for (const std::string& simd : SimdTargets()) {
    for (const int threads : {2, 5}) {
      StoreFixture other(BusySpec(), threads, simd.c_str());
      Work(other, 1, 8);
      CHECK_TRUE(other.Rows() == alone.Rows());
    }
  }
}

TEST(ARestoredTableGoesOnAsIfNothingHadHappened) {
  StoreFixture first(BusySpec());
  Work(first, 1, 4);
  StoreFixture second(BusySpec());
  Work(second, 7, 2);
  second.Restore(first.Rows(), first.States(), first.table().step());
  CHECK_TRUE(second.Rows() == first.Rows());
  Work(first, 2, 4);
  Work(second, 2, 4);
  CHECK_TRUE(second.Rows() == first.Rows());
  const Counters a = first.stats().counters;
  const Counters b = second.stats().counters;
  CHECK_EQ(a.evicted, b.evicted);
  CHECK_EQ(a.updates, b.updates);
  CHECK_EQ(first.stats().candidates, second.stats().candidates);
}

TEST(AClearedTableIsEmptyAndUsable) {
  StoreFixture fixture(ConstantSpec(2, 1));
  fixture.Push(Range(0, 5000), Values(10000, 1));
  fixture.table().Clear();
  CHECK_EQ(fixture.stats().rows, uint64_t{0});
  CHECK_EQ(fixture.stats().counters.deleted, uint64_t{5000});
  CHECK_TRUE(fixture.Pull(Range(0, 5000)) == Values(10000, 1));
}

}  // namespace
}  // namespace embery

EMBERY_TEST_MAIN()
