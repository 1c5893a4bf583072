#include "table/partition.h"

#include <algorithm>
#include <initializer_list>
#include <random>
#include <thread>

#include "base/testing.h"

namespace embery {
namespace {

constexpr uint64_t kSalt = 77;

std::vector<uint64_t> RandomKeys(size_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<uint64_t> keys(count);
  // Every third key is one of few, so that there are duplicates.
  for (uint64_t& key : keys) key = random() % 3 == 0 ? random() % 8 : random();
  return keys;
}

void Run(Partition& partition, const std::vector<uint64_t>& keys) {
  partition.Reset(kSalt, keys.data(), keys.size());
  // Backwards: chunks may be taken in any order.
  for (size_t c = partition.chunks(); c-- > 0;) partition.Mix(c);
  partition.LayOut();
  for (size_t c = partition.chunks(); c-- > 0;) partition.Scatter(c);
}

void CheckPartition(const Partition& partition, const std::vector<uint64_t>& keys) {
  size_t total = 0;
  for (uint32_t group = 0; group < kGroupCount; ++group) {
    const size_t count = partition.count(group);
    const uint32_t* positions = partition.positions(group);
    total += count;
    // Strictly ascending: each once, in the order of the batch.
    for (size_t i = 1; i < count; ++i) CHECK_TRUE(positions[i - 1] < positions[i]);
    for (size_t i = 0; i < count; ++i) {
      const MixedKey mixed = MixKey(kSalt, keys[positions[i]]);
      CHECK_EQ(partition.keys(group)[i].bits, mixed.bits);
      CHECK_EQ(GroupOf(mixed), group);
    }
  }
  CHECK_EQ(total, keys.size());
}

TEST(KeysAreSortedByGroupInTheOrderOfTheBatch) {
  Partition partition;
  for (const size_t count :
       std::initializer_list<size_t>{0, 1, 2, 63, 16383, 16384, 16385, 60000, 5, 0}) {
    const std::vector<uint64_t> keys = RandomKeys(count, count);
    Run(partition, keys);
    CheckPartition(partition, keys);
  }
}

TEST(KeysOfOneGroupAreABatchAsWell) {
  std::vector<uint64_t> keys(20000);
  for (size_t i = 0; i < keys.size(); ++i) {
    keys[i] = UnmixKey(kSalt, JoinMixed(63, static_cast<uint32_t>(i % 100), 5));
  }
  Partition partition;
  Run(partition, keys);
  CheckPartition(partition, keys);
  CHECK_EQ(partition.count(63), keys.size());
}

TEST(ThreadsTakeChunksAtTheSameTime) {
  const std::vector<uint64_t> keys = RandomKeys(150000, 3);
  Partition partition;
  partition.Reset(kSalt, keys.data(), keys.size());
  const auto for_each_chunk = [&](void (Partition::*step)(size_t)) {
    std::vector<std::thread> threads;
    for (size_t c = 0; c < partition.chunks(); ++c) {
      threads.emplace_back([&partition, step, c] { (partition.*step)(c); });
    }
    for (std::thread& thread : threads) thread.join();
  };
  for_each_chunk(&Partition::Mix);
  partition.LayOut();
  for_each_chunk(&Partition::Scatter);
  CheckPartition(partition, keys);
}

}  // namespace
}  // namespace embery

EMBERY_TEST_MAIN()
