#include "batch/murmur3.h"

#include <array>
#include <bit>
#include <cstring>
#include <string>

#include "base/hash.h"

namespace embery {
namespace {

static_assert(std::endian::native == std::endian::little, "blocks are read as little-endian words");

constexpr uint64_t kC1 = 0x87c37b91114253d5ULL;
constexpr uint64_t kC2 = 0x4cf5ad432745937fULL;
constexpr size_t kBlockBytes = 16;
constexpr size_t kHexDigitsMax = 16;

struct Block {
  uint64_t low;
  uint64_t high;
};

uint64_t ScrambleLow(uint64_t word) { return std::rotl(word * kC1, 31) * kC2; }
uint64_t ScrambleHigh(uint64_t word) { return std::rotl(word * kC2, 33) * kC1; }

Block LoadBlock(const uint8_t* data) {
  Block block;
  std::memcpy(&block, data, kBlockBytes);
  return block;
}

// The state of the hash: two words, of which only the first is asked for.
struct State {
  uint64_t h1;
  uint64_t h2;
};

void MixBlock(State& state, Block block) {
  state.h1 = (std::rotl(state.h1 ^ ScrambleLow(block.low), 27) + state.h2) * 5 + 0x52dce729;
  state.h2 = (std::rotl(state.h2 ^ ScrambleHigh(block.high), 31) + state.h1) * 5 + 0x38495ab5;
}

// The first `count` bytes of a word, 1 to 8.
uint64_t FirstBytes(uint64_t word, size_t count) {
  return word & (~uint64_t{0} >> (64 - 8 * count));
}

// Mixes the last, incomplete block, whose first 0 to 15 bytes count. The half that holds nothing is
// zero, scrambles to zero and is left out.
void MixTail(State& state, Block block, size_t length) {
  if (length > 8) {
    state.h1 ^= ScrambleLow(block.low);
    state.h2 ^= ScrambleHigh(FirstBytes(block.high, length - 8));
  } else if (length > 0) {
    state.h1 ^= ScrambleLow(FirstBytes(block.low, length));
  }
}

uint64_t Finish(State state, size_t length) {
  state.h1 ^= length;
  state.h2 ^= length;
  state.h1 += state.h2;
  state.h2 += state.h1;
  return Fmix64(state.h1) + Fmix64(state.h2);
}

// Of the bytes from `data` on, `length` are hashed and `readable`, which are as many or more, may
// be read: masking a whole block is faster than copying the bytes of a part.
inline uint64_t HashReadable(const uint8_t* data, size_t length, size_t readable, uint32_t seed) {
  const size_t tail = length % kBlockBytes;
  const uint8_t* const tail_begin = data + (length - tail);
  State state{seed, seed};
  for (; data != tail_begin; data += kBlockBytes) MixBlock(state, LoadBlock(data));
  if (tail > 0) {
    Block block{0, 0};
    if (readable - (length - tail) >= kBlockBytes) [[likely]] {
      block = LoadBlock(data);
    } else {
      std::memcpy(&block, data, tail);
    }
    MixTail(state, block, tail);
  }
  return Finish(state, length);
}

constexpr uint8_t kNotHex = 0xff;
constexpr std::array<uint8_t, 256> kHexValue = [] {
  std::array<uint8_t, 256> value{};
  value.fill(kNotHex);
  for (uint8_t digit = 0; digit < 10; ++digit) value['0' + digit] = digit;
  for (uint8_t digit = 0; digit < 6; ++digit) {
    value['a' + digit] = value['A' + digit] = static_cast<uint8_t>(10 + digit);
  }
  return value;
}();

template <typename Offset>
bool IsWithin(Offset begin, Offset end, size_t size) {
  return 0 <= begin && begin <= end && static_cast<size_t>(end) <= size;
}

template <typename Offset>
Status BadOffset(const StringColumn<Offset>& column, size_t index) {
  return Status::InvalidArgument(
      "string " + std::to_string(index) + " spans bytes [" + std::to_string(column.offsets[index]) +
      ", " + std::to_string(column.offsets[index + 1]) + ") of a buffer of " +
      std::to_string(column.bytes.size()) + " bytes; offsets must not decrease");
}

}  // namespace

uint64_t Murmur3Low64(const void* data, size_t length, uint32_t seed) {
  return HashReadable(static_cast<const uint8_t*>(data), length, length, seed);
}

template <typename Offset>
Status HashStrings(const StringColumn<Offset>& column, uint32_t seed, std::span<uint64_t> keys) {
  // Copies, because the compiler must assume that a store to `keys` changes the column.
  const std::span<const Offset> offsets = column.offsets;
  const std::span<const uint8_t> bytes = column.bytes;
  const size_t count = column.size();
  for (size_t i = 0; i < count; ++i) {
    const Offset begin = offsets[i];
    const Offset end = offsets[i + 1];
    if (!IsWithin(begin, end, bytes.size())) [[unlikely]]
      return BadOffset(column, i);
    const auto first = static_cast<size_t>(begin);
    const auto length = static_cast<size_t>(end - begin);
    if (length < kBlockBytes && bytes.size() - first >= kBlockBytes) {
      // Most strings: a whole block may be read, and no loop is needed.
      State state{seed, seed};
      MixTail(state, LoadBlock(bytes.data() + first), length);
      keys[i] = Finish(state, length);
    } else {
      keys[i] = HashReadable(bytes.data() + first, length, bytes.size() - first, seed);
    }
  }
  return Status::Ok();
}

template <typename Offset>
Status ParseHexStrings(const StringColumn<Offset>& column, std::span<uint64_t> keys) {
  for (size_t i = 0; i < column.size(); ++i) {
    const Offset begin = column.offsets[i];
    const Offset end = column.offsets[i + 1];
    if (!IsWithin(begin, end, column.bytes.size())) [[unlikely]]
      return BadOffset(column, i);
    const auto digits =
        column.bytes.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
    uint64_t key = 0;
    uint8_t seen = 0;
    for (const uint8_t digit : digits) {
      const uint8_t value = kHexValue[digit];
      seen |= value;
      key = key << 4 | (value & 0xf);
    }
    if (seen > 0xf || digits.size() > kHexDigitsMax) [[unlikely]] {
      return Status::InvalidArgument("string " + std::to_string(i) +
                                     " is not 1 to 16 hexadecimal digits");
    }
    keys[i] = key;
  }
  return Status::Ok();
}

template Status HashStrings(const StringColumn<int32_t>&, uint32_t, std::span<uint64_t>);
template Status HashStrings(const StringColumn<int64_t>&, uint32_t, std::span<uint64_t>);
template Status ParseHexStrings(const StringColumn<int32_t>&, std::span<uint64_t>);
template Status ParseHexStrings(const StringColumn<int64_t>&, std::span<uint64_t>);

}  // namespace embery
