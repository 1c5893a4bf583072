// Seeded fuzzing of all decoders of the wire: what damage does to them.
//
// The number of inputs of a case is EMBERY_TEST_OPERATIONS; else 10^8 where EMBERY_TEST_LONG is 1;
// else what takes a second or two. EMBERY_TEST_SEED changes them.
#include <algorithm>
#include <cstring>
#include <random>

#include "wire/wire_testing.h"

namespace embery::testing {
namespace {

constexpr uint64_t kShortInputs = 200'000;
constexpr uint64_t kLongInputs = 100'000'000;

std::mt19937_64 SeededRandom() {
  return std::mt19937_64(NumberFromEnvironment("EMBERY_TEST_SEED", 1));
}

uint64_t InputCount() { return OperationsOfTest(kShortInputs, kLongInputs); }

TEST(SeedsAreAccepted) {
  for (const Bytes& seed : SeedInputs()) CHECK_TRUE(CheckDecoders(seed) > 0);
}

// By its own decoder: what is cut from one message may be another.
template <typename Decode>
void CheckNeedsAllAndNoMore(const Bytes& whole, Decode decode) {
  for (size_t size = 0; size <= whole.size() + 1; ++size) {
    Bytes cut = whole;
    cut.resize(size);
    CHECK_EQ(decode(cut).ok(), size == whole.size());
    CheckDecoders(cut);
  }
}

TEST(MessagesNeedAllTheirBytesAndNoMore) {
  CheckNeedsAllAndNoMore(SeedPull(ReadMode::kTrain, ValueType::kFloat16), DecodePull);
  CheckNeedsAllAndNoMore(SeedReply(StatusCode::kOk, "a text", 28), DecodeReply);
  for (size_t type = 0; type < kValueTypes; ++type) {
    const Bytes push = SeedPush(static_cast<ValueType>(type), ValueType::kInt8);
    CheckNeedsAllAndNoMore(push, DecodePush);
    CheckNeedsAllAndNoMore(InFrame(FrameType::kPush, push), DecodeFrame);
  }
}

TEST(EveryByteMayHaveAnyValue) {
  for (const Bytes& seed : SeedInputs()) {
    for (size_t at = 0; at < seed.size(); ++at) {
      Bytes damaged = seed;
      for (int value = 0; value < 256; ++value) {
        damaged[at] = static_cast<std::byte>(value);
        CheckDecoders(damaged);
      }
    }
  }
}

// Changes bytes and whole lengths, cuts, repeats, and joins the front of one input to the end of
// another.
void Damage(Bytes& input, const std::vector<Bytes>& seeds, std::mt19937_64& random) {
  const auto below = [&](size_t limit) { return static_cast<size_t>(random() % limit); };
  constexpr uint64_t kHardLengths[] = {0,          1,          UINT32_MAX, UINT64_MAX,
                                       1ULL << 31, 1ULL << 32, 1ULL << 63, 4097};
  for (uint64_t changes = 1 + random() % 4; changes > 0; --changes) {
    if (input.size() < sizeof(uint64_t)) return;
    switch (random() % 6) {
      case 0:
        input[below(input.size())] ^= static_cast<std::byte>(1 + random() % 255);
        break;
      case 1: {
        const size_t bytes = random() % 2 == 0 ? sizeof(uint32_t) : sizeof(uint64_t);
        const size_t at = below(input.size() / bytes) * bytes;
        std::memcpy(&input[at], &kHardLengths[below(std::size(kHardLengths))], bytes);
        break;
      }
      case 2:
        input.resize(below(input.size() + 1));
        break;
      case 3:
        input.resize(input.size() + 8 * below(4), std::byte{0});
        break;
      case 4: {
        const auto middle = static_cast<ptrdiff_t>(below(input.size()));
        input.insert(input.begin() + middle, 8, static_cast<std::byte>(random() % 256));
        break;
      }
      default: {
        const Bytes& other = seeds[below(seeds.size())];
        const size_t at = std::min(below(input.size()), other.size());
        input.resize(at);
        Append(input, std::span(other).subspan(at));
      }
    }
  }
}

TEST(DamagedMessagesNeverLeadBeyondTheirBody) {
  std::mt19937_64 random = SeededRandom();
  const std::vector<Bytes> seeds = SeedInputs();
  uint64_t accepted = 0;
  const uint64_t count = InputCount();
  const int failures = Failures().load();
  for (uint64_t i = 0; i < count && Failures().load() == failures; ++i) {
    Bytes input = seeds[random() % seeds.size()];
    Damage(input, seeds, random);
    // A frame of damaged contents is whole again.
    if (random() % 4 == 0) input = InFrame(FrameType::kReply, input);
    accepted += CheckDecoders(input) > 0 ? 1 : 0;
  }
  // Damage that decoders always notice would test little behind their first checks.
  CHECK_TRUE(accepted > count / 100);
}

TEST(RandomBytesNeverLeadBeyondThemselves) {
  std::mt19937_64 random = SeededRandom();
  const int failures = Failures().load();
  for (uint64_t i = InputCount() / 2; i > 0 && Failures().load() == failures; --i) {
    Bytes input(random() % 200);
    for (std::byte& byte : input) byte = static_cast<std::byte>(random() % 4 == 0 ? random() : 0);
    CheckDecoders(input);
  }
}

}  // namespace
}  // namespace embery::testing

EMBERY_TEST_MAIN()
