// Frames and messages: golden bytes, round trips, and what damage does to a decoder.
#include <cstring>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "base/testing.h"
#include "wire/body.h"
#include "wire/frame.h"
#include "wire/messages.h"

namespace embery {
namespace {

using Bytes = std::vector<std::byte>;

void Append(Bytes& to, const void* data, size_t bytes) {
  const auto* first = static_cast<const std::byte*>(data);
  to.insert(to.end(), first, first + bytes);
}

// Memory of exactly its size, so that ASan sees a read beyond it; vectors are aligned to 16.
Bytes Exact(const Bytes& bytes) { return {bytes.begin(), bytes.end()}; }

const std::vector<Section> kSections = {{0x1122334455667788, 3, 2}, {99, 1, 1}};
constexpr uint64_t kKeys[] = {5, UINT64_MAX, 6};
constexpr float kGrads[] = {1, 2, 3, 4, 5, 6, 7};

Bytes PullBody() {
  Bytes body = EncodePullHead({7, 1000, ReadMode::kPeek}, kSections);
  Append(body, kKeys, sizeof(kKeys));
  return body;
}

Bytes PushBody() {
  Bytes body = EncodePushHead({7, 11, 12, 13, 1, 2, 1000}, kSections);
  Append(body, kKeys, sizeof(kKeys));
  Append(body, kGrads, sizeof(kGrads));
  return body;
}

Bytes ReplyBody() {
  const uint8_t absent[] = {0, 1, 0};
  ReplyHead head;
  head.code = StatusCode::kUnavailable;
  head.routing_version = 8;
  head.moved = 4;
  head.absent_count = 3;
  head.float_count = 7;
  Bytes body = EncodeReplyHead(head, "busy now", absent);
  Append(body, kGrads, sizeof(kGrads));
  return body;
}

TEST(HeaderHasItsGoldenBytes) {
  std::byte header[kHeaderBytes];
  EncodeHeader({FrameType::kPull, 0x0102030405060708, 0x0a0b0c0d}, header);
  const unsigned char golden[20] = {'E', 'M', 'B', 'Y', 1, 0, 2,    0,    8,    7,
                                    6,   5,   4,   3,   2, 1, 0x0d, 0x0c, 0x0b, 0x0a};
  CHECK_EQ(std::memcmp(header, golden, sizeof(golden)), 0);
  const Result<FrameHeader> decoded = DecodeHeader(header);
  REQUIRE_TRUE(decoded.ok());
  CHECK_TRUE(decoded.value().type == FrameType::kPull);
  CHECK_EQ(decoded.value().request, 0x0102030405060708U);
  CHECK_EQ(decoded.value().body_bytes, 0x0a0b0c0dU);
}

TEST(EveryFlippedBitOfAHeaderIsNoticed) {
  std::byte header[kHeaderBytes];
  EncodeHeader({FrameType::kPush, 77, 4096}, header);
  for (size_t bit = 0; bit < kHeaderBytes * 8; ++bit) {
    header[bit / 8] ^= std::byte{1} << (bit % 8);
    CHECK_TRUE(!DecodeHeader(header).ok());
    header[bit / 8] ^= std::byte{1} << (bit % 8);
  }
  CHECK_TRUE(DecodeHeader(header).ok());
}

TEST(BodyAboveTheLimitIsRefused) {
  std::byte header[kHeaderBytes];
  EncodeHeader({FrameType::kHello, 1, 100}, header);
  CHECK_TRUE(DecodeHeader(header, 100).ok());
  CHECK_TRUE(!DecodeHeader(header, 99).ok());
}

TEST(PullComesBackAsItWasSent) {
  const Bytes body = PullBody();
  const Result<PullMessage> pull = DecodePull(body);
  REQUIRE_TRUE(pull.ok());
  CHECK_EQ(pull.value().head.routing_version, 7U);
  CHECK_EQ(pull.value().head.now_s, 1000U);
  CHECK_TRUE(pull.value().head.mode == ReadMode::kPeek);
  REQUIRE_TRUE(pull.value().sections.size() == 2);
  CHECK_EQ(pull.value().sections[0].salt, kSections[0].salt);
  CHECK_EQ(pull.value().sections[0].keys[1], UINT64_MAX);
  CHECK_EQ(pull.value().sections[1].keys[0], 6U);
}

TEST(PushComesBackAsItWasSent) {
  const Bytes body = PushBody();
  const Result<PushMessage> push = DecodePush(body);
  REQUIRE_TRUE(push.ok());
  const PushHead& head = push.value().head;
  CHECK_EQ(head.client, 11U);
  CHECK_EQ(head.sequence, 12U);
  CHECK_EQ(head.round, 13U);
  CHECK_EQ(head.rank, 1U);
  CHECK_EQ(head.world, 2U);
  REQUIRE_TRUE(push.value().sections.size() == 2);
  CHECK_EQ(push.value().sections[0].grads[5], 6.0f);
  CHECK_EQ(push.value().sections[1].grads[0], 7.0f);
}

TEST(ReplyComesBackAsItWasSent) {
  const Bytes body = ReplyBody();
  const Result<ReplyMessage> reply = DecodeReply(body);
  REQUIRE_TRUE(reply.ok());
  CHECK_TRUE(reply.value().head.code == StatusCode::kUnavailable);
  CHECK_EQ(reply.value().head.routing_version, 8U);
  CHECK_EQ(reply.value().head.moved, 4U);
  CHECK_EQ(reply.value().text, "busy now");
  REQUIRE_TRUE(reply.value().absent.size() == 3);
  CHECK_EQ(reply.value().absent[1], 1);
  CHECK_EQ(reply.value().rows[6], 7.0f);
  CHECK_EQ(body.size() - sizeof(kGrads), ReplyRowsOffset(3) + 8);
}

TEST(HelloNeedsASecretOfTheRightLength) {
  const std::string secret(kSecretBytesMax, 's');
  CHECK_EQ(DecodeHello(EncodeHello(1, secret)).value(), secret);
  CHECK_TRUE(!DecodeHello(EncodeHello(1, secret + "s")).ok());
  CHECK_TRUE(!DecodeHello(EncodeHello(1, "short")).ok());
  CHECK_TRUE(!DecodeHello(Bytes(7)).ok());
}

// Whatever a decoder accepts lies within the body.
uint64_t Touch(const std::vector<SectionView>& sections) {
  uint64_t sum = 0;
  for (const SectionView& section : sections) {
    for (uint32_t i = 0; i < section.count; ++i) sum += section.keys[i];
    if (section.grads == nullptr) continue;
    const size_t floats = size_t{section.count} * section.dim;
    for (size_t i = 0; i < floats; ++i) sum += section.grads[i] != 0 ? 1 : 0;
  }
  return sum;
}

// Every decoder on any bytes; returns how many accepted them.
int DecodeAll(const Bytes& body) {
  int accepted = 0;
  volatile uint64_t sum = 0;  // Keeps the reads.
  if (const auto pull = DecodePull(body); pull.ok()) {
    sum = sum + Touch(pull.value().sections);
    ++accepted;
  }
  if (const auto push = DecodePush(body); push.ok()) {
    sum = sum + Touch(push.value().sections);
    ++accepted;
  }
  if (const auto reply = DecodeReply(body); reply.ok()) {
    for (const uint8_t flag : reply.value().absent) sum = sum + flag;
    for (const char c : reply.value().text) sum = sum + static_cast<unsigned char>(c);
    for (uint64_t i = 0; i < reply.value().head.float_count; ++i) {
      sum = sum + (reply.value().rows[i] != 0 ? 1 : 0);
    }
    ++accepted;
  }
  if (const auto hello = DecodeHello(body); hello.ok()) ++accepted;
  return accepted;
}

template <typename Decode>
void CheckNeedsAllAndNoMore(const Bytes& whole, Decode decode) {
  CHECK_TRUE(decode(whole).ok());
  for (size_t size = 0; size < whole.size(); ++size) {
    const Bytes cut(whole.begin(), whole.begin() + static_cast<ptrdiff_t>(size));
    CHECK_TRUE(!decode(cut).ok());
    DecodeAll(cut);
  }
  Bytes longer = whole;
  longer.push_back(std::byte{0});
  CHECK_TRUE(!decode(longer).ok());
}

TEST(MessagesNeedAllTheirBytesAndNoMore) {
  CheckNeedsAllAndNoMore(PullBody(), DecodePull);
  CheckNeedsAllAndNoMore(PushBody(), DecodePush);
  CheckNeedsAllAndNoMore(ReplyBody(), DecodeReply);
}

TEST(DamagedMessagesNeverLeadBeyondTheirBody) {
  std::mt19937_64 random(20240501);
  const Bytes bodies[] = {PullBody(), PushBody(), ReplyBody()};
  for (int round = 0; round < 200'000; ++round) {
    Bytes body = bodies[random() % 3];
    const auto flips = 1 + random() % 4;
    for (uint64_t i = 0; i < flips; ++i) {
      const size_t at = random() % body.size();
      body[at] ^= static_cast<std::byte>(random() % 255 + 1);
    }
    // Lengths of all ones are what overflows.
    if (random() % 4 == 0) std::memset(&body[random() % (body.size() / 4) * 4], 0xff, 4);
    if (random() % 4 == 0) body.resize(random() % (body.size() + 1));
    DecodeAll(Exact(body));
  }
}

TEST(RandomBytesNeverLeadBeyondThemselves) {
  std::mt19937_64 random(7);
  for (int round = 0; round < 100'000; ++round) {
    Bytes body(random() % 200);
    for (std::byte& byte : body) byte = static_cast<std::byte>(random() % 4 == 0 ? random() : 0);
    DecodeAll(body);
    (void)DecodeFrame(body).ok();
  }
}

TEST(LargeBodiesGoBackToTheirPool) {
  BodyPool pool;
  {
    Body body = Body::Take(pool, Body::kPooledBytesMin);
    REQUIRE_TRUE(body.data() != nullptr);
    Body moved = std::move(body);
    CHECK_EQ(moved.size(), Body::kPooledBytesMin);
    CHECK_EQ(pool.idle_bytes(), 0U);
    moved = Body::Take(pool, 8);
    CHECK_TRUE(pool.idle_bytes() >= Body::kPooledBytesMin);
  }
  CHECK_EQ(Body::Take(pool, 0).size(), 0U);
}

}  // namespace
}  // namespace embery

EMBERY_TEST_MAIN()
