// Threads that pull, push, evict, save and freeze at the same time; to be run under TSan as well.
#include <atomic>
#include <functional>
#include <random>
#include <thread>

#include "table/store_fixture.h"

namespace embery {
namespace {

constexpr uint32_t kDim = 4;
constexpr uint64_t kKeys = 6000;

// One seed a thread; the number of rounds is fixed, so that a test ends on any machine.
using Work = std::function<void(std::mt19937_64& random)>;

void RunAtOnce(const std::vector<Work>& works, int rounds) {
  std::vector<std::thread> threads;
  for (size_t i = 0; i < works.size(); ++i) {
    threads.emplace_back([&works, rounds, i] {
      std::mt19937_64 random(i);
      for (int round = 0; round < rounds; ++round) works[i](random);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// Mostly small batches; some are shared out over the store's own threads.
Keys RandomKeys(std::mt19937_64& random) {
  Keys keys(random() % 16 == 0 ? 9000 : 1 + random() % 300);
  for (uint64_t& key : keys) key = random() % kKeys;
  return keys;
}

// A push gives all columns of a row the same gradient: a row whose columns differ is torn.
void CheckWhole(const float* row) {
  for (uint32_t c = 1; c < kDim; ++c) CHECK_EQ(row[c], row[0]);
}

void CheckWhole(const Values& rows) {
  for (size_t i = 0; i < rows.size(); i += kDim) CheckWhole(rows.data() + i);
}

void PushOnes(StoreFixture& fixture, const Keys& keys) {
  fixture.Push(keys, Values(keys.size() * kDim, 1));
}

void PeekAndCheck(StoreFixture& fixture, const Keys& keys) {
  Values out(keys.size() * kDim, 9);
  const std::vector<uint8_t> absent = fixture.Peek(keys, out);
  CheckWhole(out);
  for (size_t i = 0; i < keys.size(); ++i) {
    if (absent[i] == 1) CHECK_EQ(out[i * kDim], 9.0f);
  }
}

// Frozen, the table is one cut: two looks at it are the same.
void FreezeAndCheck(StoreFixture& fixture) {
  fixture.store().Freeze();
  const std::vector<SavedRow> rows = fixture.Rows();
  const uint32_t step = fixture.table().step();
  const uint64_t updates = fixture.stats().counters.updates;
  std::this_thread::yield();
  CHECK_TRUE(fixture.Rows() == rows);
  CHECK_EQ(fixture.table().step(), step);
  CHECK_EQ(fixture.stats().counters.updates, updates);
  fixture.store().Thaw();
}

TEST(NoPushIsLostBetweenPullsPeeksExportsAndFreezes) {
  StoreFixture fixture(PlainSpec(kDim), 2);
  std::vector<std::atomic<int>> pushed(kKeys);
  const Work push = [&](std::mt19937_64& random) {
    const Keys keys = RandomKeys(random);
    PushOnes(fixture, keys);
    for (const uint64_t key : keys) pushed[key].fetch_add(1);
  };
  const Work pull = [&](std::mt19937_64& random) {
    CheckWhole(fixture.Pull(RandomKeys(random)));
    CheckWhole(fixture.Pull(RandomKeys(random), PullMode::kEval));
  };
  const Work peek = [&](std::mt19937_64& random) { PeekAndCheck(fixture, RandomKeys(random)); };
  const Work save = [&](std::mt19937_64&) {
    FreezeAndCheck(fixture);
    for (const SavedRow& row : fixture.Rows()) {
      CheckWhole(reinterpret_cast<const float*>(row.values.data()));
    }
  };
  RunAtOnce({push, push, pull, peek, save}, 60);

  Keys keys(kKeys);
  for (uint64_t key = 0; key < kKeys; ++key) keys[key] = key;
  const Values out = fixture.Pull(keys);
  for (uint64_t key = 0; key < kKeys; ++key) {
    CHECK_EQ(out[key * kDim], -static_cast<float>(pushed[key].load()));
  }
  CHECK_EQ(fixture.table().step(), 120u);
  CHECK_EQ(fixture.stats().rows, kKeys);
  CHECK_EQ(fixture.stats().counters.admitted, kKeys);
}

TEST(EveryRowIsCountedWhileRowsAreAdmittedAndEvicted) {
  TableSpec spec = PlainSpec(kDim);
  spec.admission = {.kind = AdmissionSpec::Kind::kMinCount, .min_count = 2};
  spec.eviction = {.kind = EvictionSpec::Kind::kLru, .rows_max = 1500};
  StoreFixture fixture(spec, 2);
  const Work push = [&](std::mt19937_64& random) { PushOnes(fixture, RandomKeys(random)); };
  const Work pull = [&](std::mt19937_64& random) {
    CheckWhole(fixture.Pull(RandomKeys(random)));
    PeekAndCheck(fixture, RandomKeys(random));
  };
  const Work evict = [&](std::mt19937_64&) {
    (void)fixture.table().Evict({fixture.table().step() + 1, fixture.now_s()},
                                Table::Effort::kThorough);
    for (const SavedRow& row : fixture.Rows()) {
      CheckWhole(reinterpret_cast<const float*>(row.values.data()));
    }
    CHECK_EQ(fixture.States().size(), size_t{kGroupCount});
  };
  RunAtOnce({push, push, pull, pull, evict}, 60);

  (void)fixture.Pull({0});
  const Table::Stats stats = fixture.stats();
  CHECK_TRUE(stats.rows <= spec.eviction.rows_max);
  CHECK_EQ(stats.rows + stats.counters.deleted, stats.counters.admitted);
  CHECK_EQ(stats.counters.evicted, stats.counters.deleted);
  CHECK_EQ(stats.tombstones, stats.counters.deleted);
  CHECK_EQ(fixture.Rows().size(), stats.rows);
}

// All keys in one group: they come while its index grows a piece at a time, under readers.
TEST(ReadersFindEveryRowOfAGroupThatGrows) {
  constexpr uint32_t kGroup = 41;
  constexpr uint32_t kRows = 60000;
  constexpr uint32_t kBatch = 500;
  StoreFixture fixture(PlainSpec(kDim), 2);
  const auto key_of = [&](uint32_t number) {
    // An odd factor spreads the tags and gives each number its own.
    return UnmixKey(fixture.table().spec().salt, JoinMixed(kGroup, number * 0x9e3779b1u, 1));
  };
  std::atomic<uint32_t> inserted{0};
  std::atomic<bool> done{false};
  const auto read = [&] {
    std::mt19937_64 random(1);
    while (!done.load()) {
      const uint32_t known = inserted.load();
      if (known == 0) continue;
      Keys keys(200);
      for (uint64_t& key : keys) key = key_of(static_cast<uint32_t>(random() % known));
      Values out(keys.size() * kDim);
      for (const uint8_t absent : fixture.Peek(keys, out)) CHECK_EQ(int{absent}, 0);
      CHECK_TRUE(out == Values(keys.size() * kDim, -1));
    }
  };
  std::thread first(read);
  std::thread second(read);
  for (uint32_t begin = 0; begin < kRows; begin += kBatch) {
    Keys keys(kBatch);
    for (uint32_t i = 0; i < kBatch; ++i) keys[i] = key_of(begin + i);
    PushOnes(fixture, keys);
    inserted.store(begin + kBatch);
  }
  done.store(true);
  first.join();
  second.join();
  CHECK_EQ(fixture.table().group(kGroup).size().rows, size_t{kRows});
}

TEST(TablesAreMadeAndFoundFromManyThreads) {
  StoreFixture fixture(PlainSpec(kDim), 2);
  const Work work = [&](std::mt19937_64& random) {
    TableSpec spec = PlainSpec(kDim);
    spec.name += std::to_string(random() % 20);
    const TableId id = fixture.store().CreateTable(spec).value();
    CHECK_EQ(fixture.store().FindTable(id)->spec().name, spec.name);
    const uint64_t key = random();
    const Values grad(kDim, 1);
    const PushRequest request{id, &key, 1, grad.data()};
    CHECK_TRUE(fixture.store().Push({&request, 1}, 1).ok());
  };
  RunAtOnce({work, work, work, work}, 100);
  CHECK_TRUE(fixture.store().FindTable(20) != nullptr);
  CHECK_TRUE(fixture.store().FindTable(21) == nullptr);
}

}  // namespace
}  // namespace embery

EMBERY_TEST_MAIN()
