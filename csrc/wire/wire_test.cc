// Frames and messages: golden bytes, round trips, and what a decoder refuses.
#include <algorithm>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "base/memory.h"
#include "wire/body.h"
#include "wire/wire_testing.h"

namespace embery {
namespace {

using testing::Bytes;
using testing::SeedPull;
using testing::SeedPush;
using testing::SeedReply;

TEST(HeaderHasItsGoldenBytes) {
  std::byte header[kHeaderBytes];
  EncodeHeader({FrameType::kPull, 0x0102030405060708, 0x0a0b0c0d}, header);
  const unsigned char golden[20] = {'E', 'M', 'B', 'Y', 2, 0, 2,    0,    8,    7,
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

// What is on the wire, byte by byte; a change of these is a new version of the format.
void CheckGolden(const Bytes& body, const std::vector<unsigned char>& golden) {
  CHECK_EQ(body.size(), golden.size());
  CHECK_TRUE(std::equal(body.begin(), body.end(), golden.begin(), golden.end(),
                        [](std::byte a, unsigned char b) { return a == std::byte{b}; }));
}

TEST(PullHasItsGoldenBytes) {
  CheckGolden(SeedPull(ReadMode::kPeek, ValueType::kInt8),
              {7,    0,    0,    0,    0,    0,    0,    0,     // Routing version.
               0xe8, 3,    0,    0,    2,    0,    0,    0,     // Time, mode.
               2,    0,    0,    0,    0,    0,    0,    0,     // Sections.
               0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11,  // Salt,
               3,    0,    0,    0,    2,    0,    0,    0,     // dim, keys,
               3,    0,    0,    0,    0,    0,    0,    0,     // encoding: int8.
               99,   0,    0,    0,    0,    0,    0,    0,     //
               1,    0,    0,    0,    1,    0,    0,    0,     //
               0,    0,    0,    0,    0,    0,    0,    0,     // float32.
               5,    0,    0,    0,    0,    0,    0,    0,     // Keys.
               0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,  //
               6,    0,    0,    0,    0,    0,    0,    0});
}

TEST(PushHasItsGoldenBytes) {
  CheckGolden(SeedPush(ValueType::kBfloat16, ValueType::kInt8),
              {7,    0,    0,    0,    0,    0,    0,    0,     // Routing version,
               11,   0,    0,    0,    0,    0,    0,    0,     // client,
               12,   0,    0,    0,    0,    0,    0,    0,     // sequence,
               13,   0,    0,    0,    0,    0,    0,    0,     // round,
               1,    0,    0,    0,    2,    0,    0,    0,     // rank, world,
               0xe8, 3,    0,    0,    2,    0,    0,    0,     // time, sections.
               0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11,  //
               3,    0,    0,    0,    2,    0,    0,    0,     //
               2,    0,    0,    0,    0,    0,    0,    0,     // bfloat16.
               99,   0,    0,    0,    0,    0,    0,    0,     //
               1,    0,    0,    0,    1,    0,    0,    0,     //
               3,    0,    0,    0,    0,    0,    0,    0,     // int8.
               5,    0,    0,    0,    0,    0,    0,    0,     //
               0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,  //
               6,    0,    0,    0,    0,    0,    0,    0,     //
               1,    2,    3,    4,    5,    6,    7,    8,     // Two rows of three, padded to 4;
               9,    10,   11,   12,   13,   14,   15,   16,    //
               17,   18,   19,   20,   21,   22,   23,   24});  // a row of one, and its scale.
}

TEST(ReplyHasItsGoldenBytes) {
  CheckGolden(SeedReply(StatusCode::kOk, "busy", 4),
              {0,   0,   0,   0,   4, 0, 0, 0,  // Status, bytes of text,
               8,   0,   0,   0,   0, 0, 0, 0,  // routing version,
               4,   0,   0,   0,   3, 0, 0, 0,  // moved, absent flags,
               4,   0,   0,   0,   0, 0, 0, 0,  // bytes of rows.
               'b', 'u', 's', 'y', 0, 0, 0, 0,  //
               0,   1,   0,   0,   0, 0, 0, 0,  //
               7,   7,   7,   7});
}

TEST(PullComesBackAsItWasSent) {
  const Bytes body = SeedPull(ReadMode::kPeek, ValueType::kInt8);
  const Result<PullMessage> pull = DecodePull(body);
  REQUIRE_TRUE(pull.ok());
  CHECK_EQ(pull.value().head.routing_version, 7U);
  CHECK_EQ(pull.value().head.now_s, 1000U);
  CHECK_TRUE(pull.value().head.mode == ReadMode::kPeek);
  REQUIRE_TRUE(pull.value().sections.size() == 2);
  CHECK_EQ(pull.value().sections[0].salt, 0x1122334455667788U);
  CHECK_TRUE(pull.value().sections[0].encoding == ValueType::kInt8);
  CHECK_EQ(pull.value().sections[0].keys[1], UINT64_MAX);
  CHECK_TRUE(pull.value().sections[0].grads == nullptr);
  CHECK_TRUE(pull.value().sections[1].encoding == ValueType::kFloat32);
  CHECK_EQ(pull.value().sections[1].keys[0], 6U);
}

TEST(PushComesBackAsItWasSent) {
  const Bytes body = SeedPush(ValueType::kFloat16, ValueType::kFloat32);
  const Result<PushMessage> push = DecodePush(body);
  REQUIRE_TRUE(push.ok());
  const PushHead& head = push.value().head;
  CHECK_EQ(head.client, 11U);
  CHECK_EQ(head.sequence, 12U);
  CHECK_EQ(head.round, 13U);
  CHECK_EQ(head.rank, 1U);
  CHECK_EQ(head.world, 2U);
  REQUIRE_TRUE(push.value().sections.size() == 2);
  // A float16 row of three has eight bytes.
  CHECK_EQ(push.value().sections[0].value_bytes(), 16U);
  CHECK_TRUE(push.value().sections[0].grads[15] == std::byte{16});
  CHECK_TRUE(push.value().sections[1].grads[0] == std::byte{17});
}

TEST(ReplyComesBackAsItWasSent) {
  const Bytes body = SeedReply(StatusCode::kUnavailable, "busy now", 28);
  const Result<ReplyMessage> reply = DecodeReply(body);
  REQUIRE_TRUE(reply.ok());
  CHECK_TRUE(reply.value().head.code == StatusCode::kUnavailable);
  CHECK_EQ(reply.value().head.routing_version, 8U);
  CHECK_EQ(reply.value().head.moved, 4U);
  CHECK_EQ(reply.value().text, "busy now");
  REQUIRE_TRUE(reply.value().absent.size() == 3);
  CHECK_EQ(reply.value().absent[1], 1);
  CHECK_EQ(reply.value().rows.size(), 28U);
  CHECK_EQ(body.size() - 28, ReplyRowsOffset(3) + 8);
}

std::string Refusal(const Status& status) { return status.ok() ? "" : status.message(); }

TEST(UnknownEncodingIsRefusedAndNamed) {
  Bytes body = SeedPush(ValueType::kInt8, ValueType::kFloat32);
  body[48 + 16] = std::byte{4};
  CHECK_TRUE(Refusal(DecodePush(body).status()).find("encoding is 4") != std::string::npos);
  body = SeedPull(ReadMode::kEval, ValueType::kInt8);
  body[24 + 16] = std::byte{255};
  CHECK_TRUE(Refusal(DecodePull(body).status()).find("encoding is 255") != std::string::npos);
  body[24 + 16] = std::byte{0};
  CHECK_TRUE(DecodePull(body).ok());
  body[24 + 17] = std::byte{1};
  CHECK_TRUE(Refusal(DecodePull(body).status()).find("not zero") != std::string::npos);
}

TEST(GradientsThatWouldUnfoldBeyondTheLimitAreRefused) {
  // 3 x 2^28 bytes of int8 are as many float32; the memory is never touched.
  constexpr uint32_t kDim = 1 << 16;
  constexpr uint32_t kKeys = 5000;
  const Section section{1, kDim, kKeys, ValueType::kInt8};
  Bytes head = EncodePushHead({1, 1, 1, 1, 0, 1, 0}, {&section, 1});
  const size_t bytes = head.size() + kKeys * sizeof(uint64_t) + section.value_bytes();
  CHECK_TRUE(bytes < kBodyBytesMax);
  Region body = Region::Allocate(bytes);
  REQUIRE_TRUE(body.data() != nullptr);
  std::memcpy(body.data(), head.data(), head.size());
  const Status status = DecodePush({body.data(), bytes}).status();
  CHECK_TRUE(Refusal(status).find("gradient values") != std::string::npos);
}

TEST(HelloNeedsASecretOfTheRightLength) {
  const std::string secret(kSecretBytesMax, 's');
  CHECK_EQ(DecodeHello(EncodeHello(1, secret)).value(), secret);
  CHECK_TRUE(!DecodeHello(EncodeHello(1, secret + "s")).ok());
  CHECK_TRUE(!DecodeHello(EncodeHello(1, "short")).ok());
  CHECK_TRUE(!DecodeHello(Bytes(7)).ok());
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
