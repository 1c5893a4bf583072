// A service on a store of one table: what it serves, refuses and joins, and what damage does.
#include "server/service.h"

#include <cstring>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "base/testing.h"

namespace embery {
namespace {

constexpr uint64_t kSalt = 0x9ae16a3b2f90404f;
constexpr uint32_t kDim = 2;
constexpr ServerNumber kNumber = 3;

// Replies own their bodies, so that they can be looked at after the call.
struct Answer {
  std::vector<std::byte> body;
  ReplyMessage message;

  float float_at(size_t i) const {
    float value;
    std::memcpy(&value, &message.rows[i * sizeof(float)], sizeof(value));
    return value;
  }
};

class ServiceFixture {
 public:
  ServiceFixture() : store_(1, *FindKernels("auto").value()), service_(store_, pool_, kNumber, "") {
    TableSpec spec;
    spec.name = "t";
    spec.salt = kSalt;
    spec.dim = kDim;
    spec.optimizer = {.kind = OptimizerKind::kSgd, .lr = 1.0f};
    id_ = store_.CreateTable(spec).value();
    CHECK_TRUE(service_.AddTable(kSalt, id_).ok());
    owners_.assign(kSlotCount, kNumber);
    backups_.assign(kSlotCount, kNoServer);
    changed_at_.assign(kSlotCount, 1);
    SetRouting(1);
  }
  ~ServiceFixture() { service_.Stop(); }

  Service& service() { return service_; }
  std::vector<uint16_t>& owners() { return owners_; }
  std::vector<uint64_t>& changed_at() { return changed_at_; }
  void SetRouting(uint64_t version) {
    CHECK_TRUE(service_.SetRouting(version, owners_, backups_, changed_at_).ok());
  }

  // The answer, once there is one.
  void Send(FrameType type, const std::vector<std::byte>& bytes, std::optional<Answer>& answer) {
    Request request{{type, 1, static_cast<uint32_t>(bytes.size())},
                    Body::Take(pool_, bytes.size())};
    if (!bytes.empty()) std::memcpy(request.body.data(), bytes.data(), bytes.size());
    service_.Handle(std::move(request), [&answer](const Reply& reply) {
      answer.emplace();
      answer->body.assign(reply.head.begin() + kHeaderBytes, reply.head.end());
      const auto rows = reply.rows.bytes();
      answer->body.insert(answer->body.end(), rows.begin(), rows.end());
      const Result<ReplyMessage> message = DecodeReply(answer->body);
      CHECK_TRUE(message.ok());
      if (message.ok()) answer->message = message.value();
    });
  }

  Answer Pull(const std::vector<uint64_t>& keys, uint64_t version = 1,
              ReadMode mode = ReadMode::kEval) {
    std::optional<Answer> answer;
    Send(FrameType::kPull, PullBody(keys, version, mode), answer);
    CHECK_TRUE(answer.has_value());
    return std::move(answer).value_or(Answer{});
  }

  static std::vector<std::byte> PullBody(const std::vector<uint64_t>& keys, uint64_t version,
                                         ReadMode mode) {
    const Section section{kSalt, kDim, static_cast<uint32_t>(keys.size())};
    std::vector<std::byte> body = EncodePullHead({version, 0, mode}, {&section, 1});
    const auto bytes = std::as_bytes(std::span(keys));
    body.insert(body.end(), bytes.begin(), bytes.end());
    return body;
  }

  static std::vector<std::byte> PushBody(const PushHead& head, const std::vector<uint64_t>& keys,
                                         float grad) {
    const Section section{kSalt, kDim, static_cast<uint32_t>(keys.size())};
    std::vector<std::byte> body = EncodePushHead(head, {&section, 1});
    const std::vector<float> grads(keys.size() * kDim, grad);
    for (const auto bytes : {std::as_bytes(std::span(keys)), std::as_bytes(std::span(grads))}) {
      body.insert(body.end(), bytes.begin(), bytes.end());
    }
    return body;
  }

  void MustPush(const PushHead& head, const std::vector<uint64_t>& keys, float grad) {
    std::optional<Answer> answer;
    Send(FrameType::kPush, PushBody(head, keys, grad), answer);
    REQUIRE_TRUE(answer.has_value());
    CHECK_TRUE(answer->message.head.code == StatusCode::kOk);
    CHECK_EQ(answer->message.head.moved, 0U);
  }

  uint32_t step() { return store_.FindTable(id_)->step(); }
  uint64_t rows() { return store_.FindTable(id_)->stats().rows; }

 private:
  BodyPool pool_;
  Store store_;
  Service service_;
  TableId id_ = 0;
  std::vector<uint16_t> owners_;
  std::vector<uint16_t> backups_;
  std::vector<uint64_t> changed_at_;
};

PushHead OfGroup(uint32_t rank, uint32_t world, uint64_t client, uint64_t round = 9) {
  return {1, client, 1, round, rank, world, 0};
}

uint32_t SlotOfKey(uint64_t key) { return SlotOf(MixKey(kSalt, key)); }

TEST(PushIsAppliedBeforeItIsAnswered) {
  ServiceFixture fixture;
  std::optional<Answer> answer;
  fixture.Send(FrameType::kPush, ServiceFixture::PushBody(OfGroup(0, 1, 1), {5, 6, 5}, -1), answer);
  REQUIRE_TRUE(answer.has_value());
  CHECK_TRUE(answer->message.head.code == StatusCode::kOk);
  const Answer pulled = fixture.Pull({6, 5});
  REQUIRE_TRUE(pulled.message.head.row_bytes == 16);
  CHECK_EQ(pulled.float_at(0), 1.0f);
  CHECK_EQ(pulled.float_at(2), 2.0f);
}

TEST(OneKeyOfAnotherServerRefusesTheWholeRequest) {
  ServiceFixture fixture;
  fixture.owners()[SlotOfKey(5)] = kNumber + 1;
  fixture.SetRouting(2);
  std::optional<Answer> answer;
  fixture.Send(FrameType::kPush, ServiceFixture::PushBody(OfGroup(0, 1, 1), {5, 6}, -1), answer);
  REQUIRE_TRUE(answer.has_value());
  CHECK_EQ(answer->message.head.moved, 1U);
  CHECK_EQ(answer->message.head.routing_version, 2U);
  CHECK_EQ(fixture.rows(), 0U);
  CHECK_EQ(fixture.Pull({6}).message.head.moved, 0U);
  CHECK_EQ(fixture.Pull({6, 5, 5}, 2, ReadMode::kTrain).message.head.moved, 2U);
  CHECK_EQ(fixture.rows(), 0U);
}

TEST(RoutingNewerThanTheRequestMattersOnlyWhereItChanged) {
  ServiceFixture fixture;
  fixture.changed_at()[SlotOfKey(5)] = 4;
  fixture.SetRouting(4);
  CHECK_EQ(fixture.Pull({5}, 3).message.head.moved, 1U);
  CHECK_EQ(fixture.Pull({5}, 4).message.head.moved, 0U);
  CHECK_EQ(fixture.Pull({6}, 1).message.head.moved, 0U);
}

TEST(OlderRoutingIsIgnored) {
  ServiceFixture fixture;
  fixture.SetRouting(5);
  fixture.owners().assign(kSlotCount, kNumber + 1);
  fixture.SetRouting(4);
  CHECK_EQ(fixture.Pull({1, 2, 3}).message.head.moved, 0U);
  CHECK_EQ(fixture.Pull({1}).message.head.routing_version, 5U);
}

TEST(GroupWaitsForAllItsRanks) {
  ServiceFixture fixture;
  std::optional<Answer> first;
  std::optional<Answer> second;
  fixture.Send(FrameType::kPush, ServiceFixture::PushBody(OfGroup(1, 2, 1), {5}, -1), first);
  CHECK_TRUE(!first.has_value());
  CHECK_EQ(fixture.rows(), 0U);
  fixture.Send(FrameType::kPush, ServiceFixture::PushBody(OfGroup(0, 2, 2), {5}, -2), second);
  REQUIRE_TRUE(first.has_value() && second.has_value());
  CHECK_EQ(fixture.Pull({5}).float_at(0), 3.0f);
}

TEST(GroupWhoseSlotsMovedWhileItWaitedIsRefused) {
  ServiceFixture fixture;
  std::optional<Answer> first;
  std::optional<Answer> second;
  fixture.Send(FrameType::kPush, ServiceFixture::PushBody(OfGroup(1, 2, 1), {5}, -1), first);
  fixture.owners()[SlotOfKey(5)] = kNumber + 1;
  fixture.SetRouting(2);
  fixture.Send(FrameType::kPush, ServiceFixture::PushBody(OfGroup(0, 2, 2), {6}, -2), second);
  REQUIRE_TRUE(first.has_value() && second.has_value());
  CHECK_EQ(first->message.head.moved, 1U);
  CHECK_EQ(second->message.head.moved, 1U);
  CHECK_EQ(fixture.rows(), 0U);
}

PushHead OfClient(uint64_t client, uint64_t sequence, uint64_t version = 1) {
  return {version, client, sequence, 0, 0, 1, 0};
}

TEST(PushThatComesAgainIsAppliedOnce) {
  ServiceFixture fixture;
  for (int i = 0; i < 3; ++i) fixture.MustPush(OfClient(1, 1), {5, 6}, -1);
  fixture.MustPush(OfClient(2, 1), {5}, -1);
  CHECK_EQ(fixture.Pull({5}).float_at(0), 2.0f);
  CHECK_EQ(fixture.step(), 2U);
}

TEST(PushThatWasRefusedIsAppliedToTheRest) {
  ServiceFixture fixture;
  fixture.owners()[SlotOfKey(5)] = kNumber + 1;
  fixture.SetRouting(2);
  fixture.MustPush(OfClient(1, 1), {6}, -1);
  CHECK_TRUE(fixture.service().applied().Import(SlotOfKey(5), SlotOfKey(5) + 1, {}).ok());
  fixture.owners()[SlotOfKey(5)] = kNumber;
  fixture.changed_at()[SlotOfKey(5)] = 3;
  fixture.SetRouting(3);
  fixture.MustPush(OfClient(1, 1, 3), {5, 6}, -1);
  CHECK_EQ(fixture.Pull({5}, 3).float_at(0), 1.0f);
  CHECK_EQ(fixture.Pull({6}, 3).float_at(0), 1.0f);
  CHECK_EQ(fixture.step(), 1U);
}

TEST(PushByAnOlderRoutingIsAppliedToTheRestWhenItComesAgain) {
  ServiceFixture fixture;
  // The slot of key 5 came in routing 2, which the sender does not know: its part for this server
  // has key 6 alone, and the server before refuses the other.
  fixture.changed_at()[SlotOfKey(5)] = 2;
  fixture.SetRouting(2);
  fixture.MustPush(OfClient(1, 1), {6}, -1);
  fixture.MustPush(OfClient(1, 1, 2), {5}, -1);
  fixture.MustPush(OfClient(1, 1, 2), {5, 6}, -1);
  CHECK_EQ(fixture.Pull({5}, 2).float_at(0), 1.0f);
  CHECK_EQ(fixture.Pull({6}, 2).float_at(0), 1.0f);
  CHECK_EQ(fixture.step(), 1U);
}

TEST(FrozenSlotsAreReadAndNotChanged) {
  ServiceFixture fixture;
  fixture.MustPush(OfClient(1, 1), {5, 6}, -1);
  fixture.service().FreezeSlots(SlotOfKey(5), SlotOfKey(5) + 1);
  fixture.SetRouting(1);  // Is no news.
  std::optional<Answer> answer;
  fixture.Send(FrameType::kPush, ServiceFixture::PushBody(OfClient(1, 2), {5, 6}, -1), answer);
  CHECK_EQ(answer->message.head.moved, 1U);
  CHECK_EQ(fixture.Pull({5}, 1, ReadMode::kTrain).message.head.moved, 1U);
  CHECK_EQ(fixture.Pull({5}).float_at(0), 1.0f);
  fixture.MustPush(OfClient(1, 3), {6}, -1);
  fixture.SetRouting(2);
  fixture.MustPush(OfClient(1, 2), {5, 6}, -1);
  CHECK_EQ(fixture.Pull({5}).float_at(0), 2.0f);
  CHECK_EQ(fixture.Pull({6}).float_at(0), 3.0f);
}

TEST(RankWhoseReplyWasLostIsAnsweredAlone) {
  ServiceFixture fixture;
  std::optional<Answer> answers[3];
  for (uint32_t rank = 0; rank < 2; ++rank) {
    fixture.Send(FrameType::kPush, ServiceFixture::PushBody(OfGroup(rank, 2, rank), {5}, -1),
                 answers[rank]);
  }
  fixture.Send(FrameType::kPush, ServiceFixture::PushBody(OfGroup(1, 2, 1), {5}, -1), answers[2]);
  REQUIRE_TRUE(answers[2].has_value());
  CHECK_EQ(fixture.Pull({5}).float_at(0), 2.0f);
  // Rank 0 has a slot that has moved here since, rank 1 has none.
  CHECK_TRUE(fixture.service().applied().Import(SlotOfKey(6), SlotOfKey(6) + 1, {}).ok());
  fixture.Send(FrameType::kPush, ServiceFixture::PushBody(OfGroup(0, 2, 0), {5, 6}, -1),
               answers[0]);
  CHECK_EQ(fixture.Pull({5}).float_at(0), 2.0f);
  CHECK_EQ(fixture.Pull({6}).float_at(0), 1.0f);
  CHECK_EQ(fixture.step(), 1U);
}

PushHead OfLease(uint32_t rank, uint32_t world, uint64_t batch, uint64_t token) {
  return {1, PushIdentity::kLeases + 4, batch, token << 32 | batch, rank, world, 0};
}

TEST(BatchThatAnotherGroupRepeatsIsAppliedWhereItIsMissing) {
  ServiceFixture fixture;
  std::optional<Answer> answers[3];
  fixture.Send(FrameType::kPush, ServiceFixture::PushBody(OfLease(0, 2, 1, 1), {5}, -1),
               answers[0]);
  CHECK_TRUE(!answers[0].has_value());
  fixture.Send(FrameType::kPush, ServiceFixture::PushBody(OfLease(1, 2, 1, 1), {5, 6}, -1),
               answers[1]);
  REQUIRE_TRUE(answers[0].has_value() && answers[1].has_value());
  CHECK_EQ(fixture.Pull({5}).float_at(0), 2.0f);
  // A slot comes from a server that had not applied it; the group that repeats it is another.
  CHECK_TRUE(fixture.service().applied().Import(SlotOfKey(7), SlotOfKey(7) + 1, {}).ok());
  fixture.MustPush(OfLease(0, 1, 1, 2), {5, 5, 6, 7}, -1);
  CHECK_EQ(fixture.Pull({5}).float_at(0), 2.0f);
  CHECK_EQ(fixture.Pull({6}).float_at(0), 1.0f);
  CHECK_EQ(fixture.Pull({7}).float_at(0), 1.0f);
  CHECK_EQ(fixture.step(), 1U);
  // One of the former group, that was stopped and goes on.
  fixture.Send(FrameType::kPush, ServiceFixture::PushBody(OfLease(1, 2, 2, 1), {6}, -1),
               answers[2]);
  REQUIRE_TRUE(answers[2].has_value());
  CHECK_TRUE(answers[2]->message.head.code == StatusCode::kInvalidArgument);
  CHECK_EQ(fixture.Pull({6}).float_at(0), 1.0f);
}

TEST(RoundsThatNobodyFinishesAreLimited) {
  ServiceFixture fixture;
  constexpr size_t kRounds = PushGroups::kGroupsMax + 3;
  std::vector<std::optional<Answer>> answers(kRounds);
  // Of a rank each, so that none gives up the one before.
  for (size_t i = 0; i < kRounds; ++i) {
    const PushHead head = OfGroup(static_cast<uint32_t>(i), kRounds, i, i);
    fixture.Send(FrameType::kPush, ServiceFixture::PushBody(head, {5}, -1), answers[i]);
  }
  for (size_t i = 0; i < kRounds; ++i) CHECK_EQ(answers[i].has_value(), i < 3);
  CHECK_TRUE(answers[0]->message.head.code == StatusCode::kUnavailable);
  fixture.service().Stop();
  for (const auto& answer : answers) CHECK_TRUE(answer.has_value());
}

TEST(PullTooLargeForAFrameIsRefusedBeforeItTakesMemory) {
  BodyPool pool;
  Store store(1, *FindKernels("auto").value());
  Service service(store, pool, kNumber, "");
  TableSpec spec;
  spec.name = "wide";
  spec.salt = kSalt;
  spec.dim = 4096;
  CHECK_TRUE(service.AddTable(kSalt, store.CreateTable(spec).value()).ok());
  const std::vector<uint16_t> owners(kSlotCount, kNumber);
  const std::vector<uint64_t> changed_at(kSlotCount, 1);
  const std::vector<uint16_t> backups(kSlotCount, kNoServer);
  CHECK_TRUE(service.SetRouting(1, owners, backups, changed_at).ok());
  const Section section{kSalt, 4096, 70'000};
  std::vector<std::byte> bytes = EncodePullHead({1, 0, ReadMode::kEval}, {&section, 1});
  bytes.resize(bytes.size() + size_t{8} * 70'000);
  Request request{{FrameType::kPull, 1, static_cast<uint32_t>(bytes.size())},
                  Body::Take(pool, bytes.size())};
  std::memcpy(request.body.data(), bytes.data(), bytes.size());
  bool answered = false;
  service.Handle(std::move(request), [&answered](const Reply& reply) {
    answered = true;
    CHECK_EQ(reply.rows.size(), 0U);
  });
  CHECK_TRUE(answered);
  CHECK_EQ(service.stats().failed.load(), 1U);
}

TEST(DamagedRequestsAreAnsweredAndHarmNothing) {
  ServiceFixture fixture;
  std::mt19937_64 random(11);
  const std::vector<std::byte> bodies[] = {
      ServiceFixture::PullBody({1, 2, 3}, 1, ReadMode::kTrain),
      ServiceFixture::PushBody(OfGroup(0, 1, 1), {1, 2, 3}, 1),
      ServiceFixture::PushBody(OfGroup(1, 2, 1), {1, 2, 3}, 1),
  };
  std::vector<std::optional<Answer>> answers(20'000);
  for (std::optional<Answer>& answer : answers) {
    std::vector<std::byte> body = bodies[random() % 3];
    for (uint64_t flips = random() % 4; flips > 0; --flips) {
      body[random() % body.size()] ^= static_cast<std::byte>(random() % 255 + 1);
    }
    if (random() % 4 == 0) body.resize(random() % (body.size() + 1));
    fixture.Send(random() % 2 == 0 ? FrameType::kPull : FrameType::kPush, body, answer);
  }
  fixture.service().Stop();
  for (const auto& answer : answers) CHECK_TRUE(answer.has_value());
  CHECK_EQ(fixture.Pull({1, 2}).message.head.row_bytes, 16U);
}

}  // namespace
}  // namespace embery

EMBERY_TEST_MAIN()
