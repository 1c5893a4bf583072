// Services that keep copies of each other's slots: what is answered is never lost, copies are equal
// to the byte, and a server that was replaced changes nothing any more.
#include <atomic>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "server/replication_testing.h"

namespace embery {
namespace {

TEST(APushIsAnsweredWhenTheBackupHasIt) {
  Cluster cluster(2);
  cluster.Own(0, kSlotCount, 0, 1);
  cluster.Next({0, 1});
  Answered answered;
  cluster.Push(0, 1, {1, 2, 3}, answered);
  CHECK_EQ(answered.count.load(), 0);
  CHECK_TRUE(Carry(cluster.node(0), cluster.node(1)) > 0);
  CHECK_EQ(answered.count.load(), 1);
  CheckEqual(cluster.node(0), cluster.node(1));
  // The same again, as if its answer were lost: nothing happens, and it waits no longer.
  cluster.Push(0, 1, {1, 2, 3}, answered);
  Carry(cluster.node(0), cluster.node(1));
  CHECK_EQ(answered.count.load(), 2);
  CHECK_EQ(ValueOf(cluster.node(0), 1), 1.0f);
}

TEST(ABackupThatTakesOverKnowsEveryPush) {
  std::mt19937_64 random(3);
  Cluster cluster(2);
  cluster.Own(0, kSlotCount, 0, 1);
  cluster.Next({0, 1});
  Answered answered;
  std::vector<std::vector<uint64_t>> pushes;
  for (uint64_t sequence = 1; sequence <= 40; ++sequence) {
    pushes.push_back(SomeKeys(random, 50));
    cluster.Push(0, sequence, pushes.back(), answered);
    if (sequence % 3 == 0) Carry(cluster.node(0), cluster.node(1));
  }
  Carry(cluster.node(0), cluster.node(1));
  CHECK_EQ(answered.count.load(), 40);
  CheckEqual(cluster.node(0), cluster.node(1));
  const float before = ValueOf(cluster.node(0), pushes.back()[0]);
  const auto counters = cluster.node(0).table(1).stats().counters;

  cluster.Own(0, kSlotCount, 1, kNoServer);
  cluster.Next({1});
  CHECK_EQ(ValueOf(cluster.node(1), pushes.back()[0]), before);
  CHECK_EQ(cluster.node(1).table(1).step(), cluster.node(0).table(1).step());
  CHECK_EQ(cluster.node(1).table(1).stats().counters.rejected, counters.rejected);
  CHECK_EQ(cluster.node(1).table(1).stats().counters.evicted, counters.evicted);
  CHECK_EQ(cluster.node(1).table(1).stats().counters.updates, counters.updates);
  CHECK_TRUE(cluster.node(1).service().copies().slots().empty());
  cluster.Push(1, 40, pushes.back(), answered);
  CHECK_EQ(ValueOf(cluster.node(1), pushes.back()[0]), before);
  cluster.Push(1, 41, {pushes.back()[0]}, answered);
  CHECK_EQ(ValueOf(cluster.node(1), pushes.back()[0]), before + 1);
  CHECK_EQ(answered.failed.load() + answered.moved.load(), 0);
}

TEST(AServerThatWasReplacedIsRefusedAndAnswersNothing) {
  Cluster cluster(2);
  cluster.Own(0, kSlotCount, 0, 1);
  cluster.Next({0, 1});
  Answered before;
  cluster.Push(0, 1, {1}, before);
  Carry(cluster.node(0), cluster.node(1));
  CHECK_EQ(before.count.load(), 1);
  // Server 0 does not hear that server 1 has its slots now.
  cluster.Own(0, kSlotCount, 1, kNoServer);
  cluster.Next({1});
  Answered answered;
  cluster.Push(0, 2, {1}, answered, 1);
  CHECK_EQ(answered.count.load(), 0);
  Carry(cluster.node(0), cluster.node(1));
  CHECK_EQ(answered.moved.load(), 1);
  CHECK_EQ(ValueOf(cluster.node(1), 1), 1.0f);
  cluster.Push(0, 3, {1}, answered, 1);
  CHECK_EQ(answered.moved.load(), 2);
  // Once it hears of it, it has nothing left.
  cluster.Tell(0);
  CHECK_EQ(cluster.node(0).table(0).stats().rows, 0U);
}

TEST(APushThatWaitsWhenItsServerLosesTheSlotsIsNotAnsweredAsDone) {
  Cluster cluster(2);
  cluster.Own(0, kSlotCount, 0, 1);
  cluster.Next({0, 1});
  Carry(cluster.node(0), cluster.node(1));
  Answered answered;
  cluster.Push(0, 1, {1}, answered);
  cluster.Own(0, kSlotCount, 1, kNoServer);
  cluster.Next({0, 1});
  CHECK_EQ(answered.moved.load(), 1);
  CHECK_EQ(ValueOf(cluster.node(1), 1), 0.0f);
}

TEST(ABackupThatIsGoneIsNotWaitedForOnceARoutingSaysSo) {
  Cluster cluster(2);
  cluster.Own(0, kSlotCount, 0, 1);
  cluster.Next({0, 1});
  Answered answered;
  cluster.Push(0, 1, {1}, answered);
  CHECK_EQ(answered.count.load(), 0);
  cluster.Own(0, kSlotCount, 0, kNoServer);
  cluster.Next({0});
  CHECK_EQ(answered.count.load(), 1);
  CHECK_EQ(answered.moved.load(), 0);
  CHECK_TRUE(!cluster.node(0).followers().Next(1, std::chrono::steady_clock::now()).has_value());
}

TEST(AFrameOfARoutingThatIsNotKnownYetComesAgain) {
  Cluster cluster(2);
  cluster.Own(0, kSlotCount, 0, 1);
  cluster.Next({0, 1});
  cluster.Next({0});
  Answered answered;
  cluster.Push(0, 1, {1}, answered);
  CHECK_EQ(Carry(cluster.node(0), cluster.node(1)), 0U);
  CHECK_EQ(answered.count.load(), 0);
  cluster.Tell(1);
  CHECK_TRUE(Carry(cluster.node(0), cluster.node(1)) > 0);
  CHECK_EQ(answered.count.load(), 1);
}

// Slots that are copied, and then change their server, while they are pushed to; the one that had
// them keeps the copy.
TEST(SlotsChangeHandsUnderPushes) {
  Cluster cluster(2);
  cluster.Next({0, 1});
  Node& source = cluster.node(0);
  Node& target = cluster.node(1);
  const uint32_t begin = 10, end = 200;
  Answered answered;
  std::atomic<bool> stopping{false};
  std::vector<float> sums(1000, 0.0f);
  uint64_t sequence = 0;
  const Carrier there(source, target);
  const Carrier back(target, source);
  std::thread pusher([&] {
    std::mt19937_64 random(5);
    while (!stopping) {
      const std::vector<uint64_t> keys = SomeKeys(random, 20);
      const int moved = answered.moved;
      const int before = answered.count;
      cluster.Push(0, ++sequence, keys, answered, 1);
      while (answered.count == before) std::this_thread::yield();
      if (answered.moved > moved) return;  // Frozen.
      for (const uint64_t key : keys) sums[key] += 1;
    }
  });
  while (answered.count < 50) std::this_thread::yield();
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  const auto copied = source.followers().Copy(1, begin, end, deadline);
  REQUIRE_TRUE(copied.ok());
  while (answered.count < 200) std::this_thread::yield();
  source.service().FreezeSlots(begin, end);
  CHECK_TRUE(source.followers().FlushAll(deadline).ok());
  stopping = true;
  pusher.join();
  cluster.Own(begin, end, 1, 0);
  cluster.Next({0, 1});
  // What is owned is the sum of all that was answered.
  for (uint64_t key = 0; key < 1000; ++key) {
    const uint32_t slot = SlotOf(MixKey(5, key));
    Node& owner = slot >= begin && slot < end ? target : source;
    CHECK_EQ(ValueOf(owner, key), sums[key]);
    CHECK_EQ(ValueOf(owner.number() == 1 ? source : target, key), 0.0f);
  }
  // The copy goes on, and its server can give the slots back by failing.
  std::vector<uint64_t> of_target;
  for (uint64_t key = 0; key < 1000; ++key) {
    const bool all_there = [&] {
      for (const uint64_t salt : {uint64_t{5}, uint64_t{77}}) {
        const uint32_t slot = SlotOf(MixKey(salt, key));
        if (slot < begin || slot >= end) return false;
      }
      return true;
    }();
    if (all_there) of_target.push_back(key);
  }
  REQUIRE_TRUE(!of_target.empty());
  const int before = answered.count;
  cluster.Push(1, ++sequence, of_target, answered);
  while (answered.count == before) std::this_thread::yield();
  cluster.Own(begin, end, 0, kNoServer);
  cluster.Next({0});
  CHECK_EQ(ValueOf(source, of_target[0]), sums[of_target[0]] + 1);
  cluster.Push(0, sequence, of_target, answered);
  CHECK_EQ(ValueOf(source, of_target[0]), sums[of_target[0]] + 1);
}

// A push whose one part was applied, and whose other part was refused because its slot was about to
// move to the same server: what the backup is told later of the first part says nothing of the
// slot.
TEST(APushThatASlotCameTooLateForIsAppliedToItByTheBackup) {
  const auto key_in = [](uint32_t begin, uint32_t end) {
    for (uint64_t key = 0;; ++key) {
      const auto is_in = [&](uint64_t salt) {
        const uint32_t slot = SlotOf(MixKey(salt, key));
        return slot >= begin && slot < end;
      };
      if (is_in(5) && is_in(77)) return key;
    }
  };
  const uint64_t moving = key_in(0, 2048);
  const uint64_t staying = key_in(2048, kSlotCount);
  Cluster cluster(2);
  cluster.Own(0, 2048, 1, kNoServer);
  cluster.Own(2048, kSlotCount, 0, 1);
  cluster.Next({0, 1});
  Carry(cluster.node(0), cluster.node(1));
  Answered answered;
  cluster.Push(0, 1, {staying}, answered);
  {
    const Carrier there(cluster.node(1), cluster.node(0));
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    CHECK_TRUE(cluster.node(1).followers().Copy(0, 0, 2048, deadline).ok());
    cluster.node(1).service().FreezeSlots(0, 2048);
    CHECK_TRUE(cluster.node(1).followers().FlushAll(deadline).ok());
  }
  cluster.Own(0, 2048, 0, 1);
  cluster.Next({0, 1});
  Carry(cluster.node(0), cluster.node(1));
  CHECK_EQ(answered.count.load(), 1);
  // Server 0 is lost before the refused part comes to it; it comes to its backup.
  cluster.Own(0, kSlotCount, 1, kNoServer);
  cluster.Next({1});
  cluster.Push(1, 1, {moving, staying}, answered);
  CHECK_EQ(ValueOf(cluster.node(1), moving), 1.0f);
  CHECK_EQ(ValueOf(cluster.node(1), staying), 1.0f);
}

TEST(ACopyThatIsMadeUnderPushesIsEqualToTheByte) {
  Cluster cluster(2);
  cluster.Next({0, 1});
  std::atomic<bool> stopping{false};
  Answered answered;
  {
    const Carrier there(cluster.node(0), cluster.node(1));
    std::vector<std::thread> pushers;
    for (uint64_t client = 1; client <= 2; ++client) {
      pushers.emplace_back([&, client] {
        std::mt19937_64 random(client);
        uint64_t sequence = 0;
        while (!stopping) {
          const std::vector<uint64_t> keys = SomeKeys(random, 30);
          const int before = answered.count;
          cluster.Push(0, ++sequence, keys, answered, 0, client);
          while (answered.count == before) std::this_thread::yield();
        }
      });
    }
    while (answered.count < 100) std::this_thread::yield();
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    for (const auto& [begin, end] : {std::pair{0U, 1000U}, std::pair{1000U, 4096U}}) {
      CHECK_TRUE(cluster.node(0).followers().Copy(1, begin, end, deadline).ok());
    }
    const int now = answered.count;
    while (answered.count < now + 100) std::this_thread::yield();
    stopping = true;
    for (std::thread& pusher : pushers) pusher.join();
    CHECK_TRUE(cluster.node(0).followers().FlushAll(deadline).ok());
  }
  CHECK_EQ(answered.failed.load() + answered.moved.load(), 0);
  CheckEqual(cluster.node(0), cluster.node(1));
}

TEST(DamagedCopiesAreRefused) {
  Cluster cluster(2);
  cluster.Own(0, kSlotCount, 0, 1);
  cluster.Next({0, 1});
  std::mt19937_64 random(11);
  Answered answered;
  cluster.Push(0, 1, SomeKeys(random, 50), answered);
  auto frame = cluster.node(0).followers().Next(1, std::chrono::steady_clock::now());
  while (frame.has_value() && frame->body.size() < 500) {
    cluster.node(0).followers().Acknowledge(1, frame->number);
    frame = cluster.node(0).followers().Next(1, std::chrono::steady_clock::now());
  }
  REQUIRE_TRUE(frame.has_value());
  for (int i = 0; i < 2000; ++i) {
    std::vector<std::byte> damaged = frame->body;
    if (i % 2 == 0) damaged.resize(random() % damaged.size());
    for (int flips = 0; flips < 3 && !damaged.empty(); ++flips) {
      damaged[random() % damaged.size()] ^= static_cast<std::byte>(1 + random() % 255);
    }
    int answers = 0;
    cluster.node(1).Handle(FrameType::kCopy, damaged, [&](const Reply& reply) {
      (void)HeadOf(reply);
      ++answers;
    });
    CHECK_EQ(answers, 1);
  }
}

}  // namespace
}  // namespace embery

EMBERY_TEST_MAIN()
