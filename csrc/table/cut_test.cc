// A cut: whatever happens after it, what is read of it is what was there when it began.
#include "table/cut.h"

#include <algorithm>
#include <atomic>
#include <functional>
#include <random>
#include <string>
#include <thread>

#include "table/store_fixture.h"

namespace embery {
namespace {

constexpr size_t kPlenty = size_t{1} << 30;

std::vector<SavedRow> CutRows(StoreFixture& fixture, uint32_t slot_begin, uint32_t slot_end,
                              const std::vector<Lsn>* since = nullptr) {
  const RecordLayout& layout = fixture.table().layout();
  std::vector<SavedRow> rows;
  for (uint32_t group = 0; group < kGroupCount; ++group) {
    const uint32_t begin = std::max(slot_begin, group * kSlotsPerGroup);
    const uint32_t end = std::min(slot_end, (group + 1) * kSlotsPerGroup);
    if (begin >= end) continue;
    const Lsn* lsns = since == nullptr ? nullptr : since->data() + group * kSlotsPerGroup;
    const Status status = fixture.table().group(group).VisitCut(
        begin, end, lsns, [&](const RowView& row) { rows.push_back(Saved(row, layout)); });
    CHECK_TRUE(status.ok());
  }
  return rows;
}

struct PlainState {
  uint64_t updates = 0, deleted = 0, operation = 0;
  std::vector<Lsn> lsns;
  std::vector<uint64_t> tombstones, candidates;
  friend bool operator==(const PlainState&, const PlainState&) = default;
};

PlainState Plain(const std::vector<GroupState>& groups) {
  PlainState plain;
  for (const GroupState& group : groups) {
    plain.updates += group.counters.updates;
    plain.deleted += group.counters.deleted;
    plain.operation += group.operation;
    plain.lsns.insert(plain.lsns.end(), group.slot_lsns.begin(), group.slot_lsns.end());
    for (const Tombstone& tombstone : group.tombstones) plain.tombstones.push_back(tombstone.mixed);
    for (const Candidate& candidate : group.candidates) plain.candidates.push_back(candidate.mixed);
  }
  return plain;
}

std::vector<GroupState> CutStates(StoreFixture& fixture) {
  std::vector<GroupState> states;
  for (uint32_t i = 0; i < kGroupCount; ++i) {
    states.push_back(fixture.table().group(i).ExportCutState().value());
  }
  return states;
}

// Rows come, change, expire, come again and are evicted.
class Churn {
 public:
  explicit Churn(uint32_t seed) : random_(seed) {}

  void Step(StoreFixture& fixture) {
    fixture.set_now_s(fixture.now_s() + static_cast<uint32_t>(random_() % 3));
    Keys keys(1 + random_() % 40);
    for (uint64_t& key : keys) key = random_() % 600;
    if (random_() % 4 == 0) {
      (void)fixture.Pull(keys);
    } else {
      Values grads(keys.size() * fixture.dim());
      for (float& grad : grads) grad = static_cast<float>(random_() % 16) - 7.5f;
      fixture.Push(keys, grads);
    }
    if (random_() % 16 == 0) (void)fixture.store().Evict(fixture.table(), fixture.now_s());
  }

 private:
  std::mt19937 random_;
};

TableSpec ChurningSpec(EvictionSpec::Kind eviction) {
  TableSpec spec = PlainSpec(3);
  spec.optimizer = {.kind = OptimizerKind::kAdagrad, .lr = 0.5f, .eps = 1e-3f};
  spec.admission = {.kind = AdmissionSpec::Kind::kMinCount, .min_count = 2};
  spec.eviction.kind = eviction;
  spec.eviction.ttl_s = 60;
  spec.eviction.rows_max = 300;
  return spec;
}

TEST(WhatIsReadOfACutIsWhatWasThereWhenItBegan) {
  for (const auto eviction : {EvictionSpec::Kind::kNone, EvictionSpec::Kind::kTtl,
                              EvictionSpec::Kind::kLru, EvictionSpec::Kind::kLfu}) {
    StoreFixture fixture(ChurningSpec(eviction));
    Churn churn(1);
    for (int i = 0; i < 100; ++i) churn.Step(fixture);
    for (int round = 0; round < 8; ++round) {
      const std::vector<SavedRow> rows = fixture.Rows();
      const PlainState state = Plain(fixture.States());
      const uint32_t step = fixture.table().step();
      CHECK_TRUE(fixture.store().BeginCut(kPlenty).ok());
      // Parts of groups, with changes between them.
      std::vector<SavedRow> found;
      for (uint32_t slot = 0; slot < kSlotCount;) {
        const uint32_t end = std::min(kSlotCount, slot + 100 + 37 * static_cast<uint32_t>(round));
        const auto part = CutRows(fixture, slot, end);
        found.insert(found.end(), part.begin(), part.end());
        slot = end;
        churn.Step(fixture);
      }
      CHECK_TRUE(found == rows);
      CHECK_TRUE(Plain(CutStates(fixture)) == state);
      CHECK_EQ(fixture.table().cut_step(), step);
      fixture.store().EndCut();
    }
  }
}

TEST(ChangesSinceACutAndTombstonesLeadToTheNextOne) {
  StoreFixture fixture(ChurningSpec(EvictionSpec::Kind::kTtl));
  Churn churn(2);
  for (int i = 0; i < 100; ++i) churn.Step(fixture);
  const std::vector<SavedRow> base = fixture.Rows();
  const std::vector<Lsn> since = Plain(fixture.States()).lsns;
  for (int i = 0; i < 30; ++i) churn.Step(fixture);
  const std::vector<SavedRow> rows = fixture.Rows();
  CHECK_TRUE(fixture.store().BeginCut(kPlenty).ok());
  for (int i = 0; i < 30; ++i) churn.Step(fixture);
  std::vector<uint64_t> gone;
  for (const GroupState& group : CutStates(fixture)) {
    for (const Tombstone& tombstone : group.tombstones) {
      if (tombstone.lsn > since[SlotOf({tombstone.mixed})]) gone.push_back(tombstone.mixed);
    }
  }
  const std::vector<SavedRow> changed = CutRows(fixture, 0, kSlotCount, &since);
  CHECK_TRUE(!gone.empty());
  CHECK_TRUE(changed.size() < rows.size());
  const auto mixed = [&](const SavedRow& row) {
    return MixKey(fixture.table().spec().salt, row.key).bits;
  };
  std::vector<SavedRow> found = changed;
  for (const SavedRow& row : base) {
    const bool is_gone = std::find(gone.begin(), gone.end(), mixed(row)) != gone.end();
    const bool is_changed = std::any_of(changed.begin(), changed.end(),
                                        [&](const SavedRow& c) { return c.key == row.key; });
    if (!is_gone && !is_changed) found.push_back(row);
  }
  std::sort(found.begin(), found.end(),
            [&](const SavedRow& a, const SavedRow& b) { return mixed(a) < mixed(b); });
  CHECK_TRUE(found == rows);
}

TEST(ACutSurvivesThatSlotsAreDroppedAndTablesCleared) {
  for (const bool clears : {false, true}) {
    StoreFixture fixture(ChurningSpec(EvictionSpec::Kind::kNone));
    Churn churn(3);
    for (int i = 0; i < 50; ++i) churn.Step(fixture);
    const std::vector<SavedRow> rows = fixture.Rows();
    const PlainState state = Plain(fixture.States());
    CHECK_TRUE(fixture.store().BeginCut(kPlenty).ok());
    if (clears) {
      fixture.table().Clear();
    } else {
      fixture.table().group(5).DropSlots(5 * kSlotsPerGroup, 6 * kSlotsPerGroup);
    }
    CHECK_TRUE(CutRows(fixture, 0, kSlotCount) == rows);
    CHECK_TRUE(Plain(CutStates(fixture)) == state);
  }
}

TEST(ACutThatWouldKeepTooMuchIsLostAndTheTableIsNot) {
  StoreFixture fixture(PlainSpec(4));
  const Keys keys = {1, 2, 3};
  fixture.Push(keys, Values(12, 1.0f));
  CHECK_TRUE(fixture.store().BeginCut(100).ok());
  fixture.Push(keys, Values(12, 1.0f));
  const auto nothing = [](const RowView&) {};
  size_t lost = 0;
  for (uint32_t group = 0; group < kGroupCount; ++group) {
    const Status status = fixture.table().group(group).VisitCut(0, kSlotCount, nullptr, nothing);
    lost += status.code() == StatusCode::kResourceExhausted ? 1 : 0;
    CHECK_TRUE(fixture.table().group(group).ExportCutState().status().code() ==
               StatusCode::kResourceExhausted);
  }
  CHECK_EQ(lost, size_t{kGroupCount});
  CHECK_TRUE(fixture.Pull(keys) == Values(12, -2.0f));
  fixture.store().EndCut();
  CHECK_TRUE(fixture.store().BeginCut(kPlenty).ok());
  CHECK_EQ(CutRows(fixture, 0, kSlotCount).size(), keys.size());
}

TEST(ACutIsReadOnceAndOnlyWhileItIsOn) {
  StoreFixture fixture(PlainSpec(1));
  fixture.Push({1}, {1.0f});
  const auto nothing = [](const RowView&) {};
  SlotGroup& group = fixture.table().group(0);
  CHECK_TRUE(group.VisitCut(0, 64, nullptr, nothing).code() == StatusCode::kUnavailable);
  CHECK_TRUE(group.ExportCutState().status().code() == StatusCode::kUnavailable);
  CHECK_TRUE(fixture.store().BeginCut(kPlenty).ok());
  CHECK_TRUE(fixture.store().BeginCut(kPlenty).code() == StatusCode::kUnavailable);
  CHECK_TRUE(group.VisitCut(0, 3, nullptr, nothing).ok());
  CHECK_TRUE(group.VisitCut(2, 4, nullptr, nothing).code() == StatusCode::kInvalidArgument);
  CHECK_TRUE(group.VisitCut(3, 64, nullptr, nothing).ok());
  fixture.store().EndCut();
  CHECK_TRUE(group.VisitCut(0, 64, nullptr, nothing).code() == StatusCode::kUnavailable);
}

TEST(AReplacedRowIsAChangeAndAnImportedOneIsNot) {
  StoreFixture fixture(PlainSpec(1));
  fixture.Push({7}, {1.0f});
  const std::vector<SavedRow> before = fixture.Rows();
  const SavedRow& row = before[0];
  const uint32_t slot = SlotOf(MixKey(fixture.table().spec().salt, 7));
  SlotGroup& group = fixture.table().group(slot / kSlotsPerGroup);
  const RowView view{row.key,  slot,       row.lsn,           row.updates,
                     row.step, row.time_s, row.values.data(), row.state.data()};
  CHECK_TRUE(group.Import(view).ok());
  CHECK_TRUE(fixture.Rows() == before);
  CHECK_TRUE(group.Replace(view).ok());
  CHECK_EQ(fixture.Rows()[0].lsn, row.lsn + 1);
}

// Integer gradients of 1 on rows of zeros: at any cut between pushes all rows of a push are equal.
TEST(ACutOfManyTurnsUnderPushesOfSeveralThreadsIsOfOneMoment) {
  StoreFixture fixture(PlainSpec(2), 2);
  Keys keys(3000);
  for (size_t i = 0; i < keys.size(); ++i) keys[i] = i;
  const Values ones(keys.size() * 2, 1.0f);
  fixture.Push(keys, ones);
  std::atomic<bool> stopping{false};
  std::vector<std::thread> threads;
  for (int i = 0; i < 2; ++i) {
    threads.emplace_back([&] {
      while (!stopping.load()) fixture.Push(keys, ones);
    });
  }
  for (int round = 0; round < 20; ++round) {
    CHECK_TRUE(fixture.store().BeginCut(kPlenty).ok());
    const std::vector<SavedRow> rows = CutRows(fixture, 0, kSlotCount);
    CHECK_EQ(rows.size(), keys.size());
    for (const SavedRow& row : rows) {
      CHECK_TRUE(row.values == rows[0].values && row.updates == rows[0].updates);
    }
    fixture.store().EndCut();
  }
  stopping.store(true);
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace embery

EMBERY_TEST_MAIN()
