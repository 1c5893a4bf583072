#include "batch/murmur3.h"

#include <cstring>
#include <numeric>
#include <string>
#include <string_view>
#include <vector>

#include "base/testing.h"

namespace embery {
namespace {

struct Golden {
  std::string_view data;
  uint32_t seed;
  uint64_t key;
};

// From PyPI mmh3 5.3: mmh3.hash64(data, seed, signed=False)[0].
constexpr Golden kGolden[] = {
    {"", 0, 0x0},
    {"", 1, 0x4610abe56eff5cb5},
    {"a", 0, 0x85555565f6597889},
    {"hello", 0, 0xcbd8a7b341bd9b02},
    {"hello", 42, 0xc4b8b3c960af6f08},
    {"0123456789abcde", 7, 0xd0369285c8e61e8e},
    {"0123456789abcdef", 7, 0x500ca03648b1f185},
    {"0123456789abcdefg", 0xffffffff, 0x6835c90072202223},
    {"Gr\xc3\xbc\xc3\x9f"
     "e",
     0, 0xc8433d0b9d11b436},
};

template <typename Offset>
StringColumn<Offset> View(const std::vector<Offset>& offsets, const std::vector<uint8_t>& bytes) {
  return {offsets, bytes};
}

// Every byte string in a buffer of exactly its length, so that a read beyond it is caught by ASan.
std::vector<uint8_t> Exact(std::string_view data) { return {data.begin(), data.end()}; }

TEST(HashesEqualTheGoldenValues) {
  for (const Golden& golden : kGolden) {
    const std::vector<uint8_t> bytes = Exact(golden.data);
    CHECK_EQ(Murmur3Low64(bytes.data(), bytes.size(), golden.seed), golden.key);
  }
  std::vector<uint8_t> all(256);
  std::iota(all.begin(), all.end(), uint8_t{0});
  CHECK_EQ(Murmur3Low64(all.data(), all.size(), 12345), uint64_t{0x8acd2d7ac9a62791});
}

template <typename Offset>
void CheckColumnEqualsSingleHashes() {
  std::vector<uint8_t> bytes;
  std::vector<Offset> offsets{0};
  for (size_t length = 0; length <= 70; ++length) {
    for (size_t i = 0; i < length; ++i) bytes.push_back(static_cast<uint8_t>(31 * length + 7 * i));
    offsets.push_back(static_cast<Offset>(bytes.size()));
  }
  const auto column = View(offsets, bytes);
  std::vector<uint64_t> keys(column.size());
  REQUIRE_TRUE(HashStrings(column, 99, std::span(keys)).ok());
  for (size_t i = 0; i < keys.size(); ++i) {
    const std::vector<uint8_t> one(bytes.begin() + offsets[i], bytes.begin() + offsets[i + 1]);
    CHECK_EQ(keys[i], Murmur3Low64(one.data(), one.size(), 99));
  }
}

TEST(AColumnHashesLikeItsStringsOneByOne) {
  CheckColumnEqualsSingleHashes<int32_t>();
  CheckColumnEqualsSingleHashes<int64_t>();
}

TEST(AnOffsetOutsideTheBufferIsRefused) {
  const std::vector<uint8_t> bytes(4);
  std::vector<uint64_t> keys(2);
  for (const std::vector<int32_t>& offsets :
       {std::vector<int32_t>{0, 3, 2}, std::vector<int32_t>{-1, 1, 2},
        std::vector<int32_t>{0, 1, 5}}) {
    CHECK_TRUE(HashStrings(View(offsets, bytes), 0, std::span(keys)).code() ==
               StatusCode::kInvalidArgument);
    CHECK_TRUE(ParseHexStrings(View(offsets, bytes), std::span(keys)).code() ==
               StatusCode::kInvalidArgument);
  }
}

TEST(AnEmptyColumnNeedsNoBuffer) {
  CHECK_TRUE(HashStrings(StringColumn<int32_t>{}, 0, {}).ok());
  const std::vector<int64_t> offsets{0};
  CHECK_TRUE(HashStrings(StringColumn<int64_t>{offsets, {}}, 0, {}).ok());
}

TEST(HexadecimalDigitsOfEitherCaseBecomeTheirValue) {
  const std::vector<uint8_t> bytes = Exact("0fF77dabff5e9FFFFFFFFffffffff");
  const std::vector<int32_t> offsets{0, 1, 3, 3, 13, 29};
  std::vector<uint64_t> keys(5);
  REQUIRE_TRUE(ParseHexStrings(View(offsets, bytes), std::span(keys)).ok());
  CHECK_EQ(keys[0], uint64_t{0});
  CHECK_EQ(keys[1], uint64_t{0xff});
  CHECK_EQ(keys[2], uint64_t{0});
  CHECK_EQ(keys[3], uint64_t{0x77dabff5e9});
  CHECK_EQ(keys[4], ~uint64_t{0});
}

TEST(OtherCharactersAndTooManyDigitsAreNotHexadecimal) {
  std::vector<uint64_t> keys(1);
  for (const std::string_view text : {"12g4", "-1", "0x12", "00000000000000000"}) {
    const std::vector<uint8_t> bytes = Exact(text);
    const std::vector<int32_t> offsets{0, static_cast<int32_t>(bytes.size())};
    CHECK_TRUE(ParseHexStrings(View(offsets, bytes), std::span(keys)).code() ==
               StatusCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace embery

EMBERY_TEST_MAIN()
