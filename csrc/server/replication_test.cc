// Services that keep copies of each other's slots: what is answered is never lost, copies are equal
// to the byte, and a server that was replaced changes nothing any more.
#include <atomic>
#include <cstring>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/testing.h"
#include "server/service.h"
#include "table/store_fixture.h"

namespace embery {
namespace {

constexpr uint32_t kDim = 2;
constexpr std::chrono::seconds kPatience{30};

TableSpec Spec(const std::string& name, uint64_t salt) {
  TableSpec spec = PlainSpec(kDim);
  spec.name = name;
  spec.salt = salt;
  return spec;
}

// What happens to be awkward: keys that are held back at first, rows that make room for others,
// state, rounding.
TableSpec AwkwardSpec() {
  TableSpec spec = Spec("awkward", 77);
  spec.optimizer = {.kind = OptimizerKind::kAdam, .lr = 0.1f};
  spec.value_type = ValueType::kInt8;
  spec.admission = {.kind = AdmissionSpec::Kind::kMinCount, .min_count = 2};
  spec.eviction = {.kind = EvictionSpec::Kind::kLru, .rows_max = 300};
  return spec;
}

// A server without its transports.
class Node {
 public:
  explicit Node(ServerNumber number)
      : number_(number),
        store_(2, *FindKernels("auto").value()),
        service_(store_, pool_, number, "") {
    for (const TableSpec& spec : {Spec("plain", 5), AwkwardSpec()}) {
      CHECK_TRUE(service_.AddTable(spec.salt, store_.CreateTable(spec).value()).ok());
    }
  }
  ~Node() { service_.Stop(); }

  ServerNumber number() const { return number_; }
  Service& service() { return service_; }
  Followers& followers() { return service_.followers(); }
  Table& table(TableId id) { return *store_.FindTable(id); }

  void Handle(FrameType type, std::span<const std::byte> bytes, Handler::Done done) {
    Request request{{type, 1, static_cast<uint32_t>(bytes.size())},
                    Body::Take(pool_, bytes.size())};
    if (!bytes.empty()) std::memcpy(request.body.data(), bytes.data(), bytes.size());
    service_.Handle(std::move(request), std::move(done));
  }

 private:
  const ServerNumber number_;
  BodyPool pool_;
  Store store_;
  Service service_;
};

ReplyHead HeadOf(const Reply& reply) {
  std::vector<std::byte> body(reply.head.begin() + kHeaderBytes, reply.head.end());
  body.insert(body.end(), reply.rows.bytes().begin(), reply.rows.bytes().end());
  const Result<ReplyMessage> message = DecodeReply(body);
  CHECK_TRUE(message.ok());
  return message.ok() ? message.value().head : ReplyHead{};
}

// Carries frames from one node to another, as long as it has some to carry.
size_t Carry(Node& from, Node& to) {
  size_t carried = 0;
  while (true) {
    const auto frame = from.followers().Next(to.number(), std::chrono::steady_clock::now());
    if (!frame.has_value() || frame->body.empty()) return carried;
    ReplyHead head;
    to.Handle(FrameType::kCopy, frame->body, [&](const Reply& reply) { head = HeadOf(reply); });
    if (head.moved > 0) {
      from.followers().Refused(to.number());
      return carried;
    }
    if (head.code != StatusCode::kOk) return carried;
    from.followers().Acknowledge(to.number(), frame->number);
    ++carried;
  }
}

// Carries them until it is destroyed.
class Carrier {
 public:
  Carrier(Node& from, Node& to)
      : thread_([&from, &to, this] {
          while (!stopping_) {
            if (Carry(from, to) == 0) std::this_thread::yield();
          }
        }) {}
  ~Carrier() {
    stopping_ = true;
    thread_.join();
  }

 private:
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

struct Answered {
  std::atomic<int> count{0};
  std::atomic<int> moved{0};
  std::atomic<int> failed{0};
};

class Cluster {
 public:
  explicit Cluster(int nodes) {
    for (int i = 0; i < nodes; ++i) {
      nodes_.push_back(std::make_unique<Node>(static_cast<ServerNumber>(i)));
    }
    owners_.assign(kSlotCount, 0);
    backups_.assign(kSlotCount, kNoServer);
    changed_at_.assign(kSlotCount, 1);
  }

  Node& node(size_t i) { return *nodes_[i]; }
  void Own(uint32_t begin, uint32_t end, ServerNumber owner, ServerNumber backup) {
    for (uint32_t slot = begin; slot < end; ++slot) {
      if (owners_[slot] != owner) changed_at_[slot] = version_ + 1;
      owners_[slot] = owner;
      backups_[slot] = backup;
    }
  }
  void Next(std::initializer_list<size_t> told) {
    ++version_;
    for (const size_t i : told) Tell(i);
  }
  void Tell(size_t i) {
    CHECK_TRUE(node(i).service().SetRouting(version_, owners_, backups_, changed_at_).ok());
  }
  uint64_t version() const { return version_; }

  // A push to one node: of its keys all that the node owns.
  void Push(size_t to, uint64_t sequence, const std::vector<uint64_t>& keys, Answered& answered,
            uint64_t version = 0) {
    const Section sections[] = {{5, kDim, static_cast<uint32_t>(keys.size())},
                                {77, kDim, static_cast<uint32_t>(keys.size())}};
    const PushHead head{version == 0 ? version_ : version, 9, sequence, 0, 0, 1, 100};
    std::vector<std::byte> body = EncodePushHead(head, sections);
    const std::vector<float> grads(keys.size() * kDim, -1.0f);
    const auto add = [&body](auto bytes) { body.insert(body.end(), bytes.begin(), bytes.end()); };
    for (int i = 0; i < 2; ++i) add(std::as_bytes(std::span(keys)));
    for (int i = 0; i < 2; ++i) add(std::as_bytes(std::span(grads)));
    node(to).Handle(FrameType::kPush, body, [&answered](const Reply& reply) {
      const ReplyHead made = HeadOf(reply);
      answered.moved += made.moved > 0 ? 1 : 0;
      answered.failed += made.code != StatusCode::kOk ? 1 : 0;
      ++answered.count;
    });
  }

 private:
  std::vector<std::unique_ptr<Node>> nodes_;
  uint64_t version_ = 0;
  std::vector<uint16_t> owners_;
  std::vector<uint16_t> backups_;
  std::vector<uint64_t> changed_at_;
};

std::vector<SavedRow> RowsOf(Table& table, SlotGroup& group) {
  std::vector<SavedRow> rows;
  const RecordLayout& layout = table.layout();
  group.VisitSlots(0, kSlotCount, [&](const RowView& row) { rows.push_back(Saved(row, layout)); });
  return rows;
}

// All of the owner's rows, candidates, tombstones and LSNs are in the copy, and nothing else.
void CheckEqual(Node& owner, Node& copy) {
  for (TableId id = 0; id < 2; ++id) {
    for (uint32_t group = 0; group < kGroupCount; ++group) {
      SlotGroup& mine = owner.table(id).group(group);
      SlotGroup& theirs = copy.table(id).copies(group);
      CHECK_TRUE(RowsOf(owner.table(id), mine) == RowsOf(copy.table(id), theirs));
      const SlotGroup::State a = mine.ExportState();
      const SlotGroup::State b = theirs.ExportState();
      CHECK_TRUE(a.slot_lsns == b.slot_lsns);
      CHECK_TRUE(a.candidates == b.candidates);
      CHECK_EQ(a.tombstones.size(), b.tombstones.size());
    }
  }
}

std::vector<uint64_t> SomeKeys(std::mt19937_64& random, size_t count) {
  std::vector<uint64_t> keys(count);
  for (uint64_t& key : keys) key = random() % 1000;
  return keys;
}

float ValueOf(Node& node, uint64_t key) {
  float value = 0;
  const MixedKey mixed = MixKey(5, key);
  node.table(0).group(GroupOf(mixed)).VisitRow(mixed, [&](const RowView& row) {
    std::memcpy(&value, row.values, sizeof(value));
  });
  return value;
}

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

TEST(ACopyThatIsMadeUnderPushesIsEqualToTheByte) {
  Cluster cluster(2);
  cluster.Next({0, 1});
  std::atomic<bool> stopping{false};
  Answered answered;
  {
    const Carrier there(cluster.node(0), cluster.node(1));
    std::vector<std::thread> pushers;
    std::atomic<uint64_t> sequence{0};
    for (int i = 0; i < 2; ++i) {
      pushers.emplace_back([&, i] {
        std::mt19937_64 random(static_cast<uint64_t>(i));
        while (!stopping) {
          const std::vector<uint64_t> keys = SomeKeys(random, 30);
          const int before = answered.count;
          cluster.Push(0, ++sequence, keys, answered);
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
