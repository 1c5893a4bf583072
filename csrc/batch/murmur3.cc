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

uint64_t LowBytes(uint64_t word, size_t count) {
  return count == 0 ? 0 : word & (~uint64_t{0} >> (64 - 8 * count));
}

// The last, incomplete block, padded with zeros. `readable` counts the bytes from `data` on that
// may be read: where a whole block may be, masking it avoids a branch a byte on the length.
Block LoadTail(const uint8_t* data, size_t length, size_t readable) {
  if (readable >= kBlockBytes) [[likely]] {
    const Block block = LoadBlock(data);
    const size_t low_bytes = length < 8 ? length : 8;
    return {LowBytes(block.low, low_bytes), LowBytes(block.high, length - low_bytes)};
  }
  Block block{0, 0};
  if (length > 0) std::memcpy(&block, data, length);
  return block;
}

inline uint64_t HashReadable(const uint8_t* data, size_t length, size_t readable, uint32_t seed) {
  uint64_t h1 = seed;
  uint64_t h2 = seed;
  size_t done = 0;
  for (; length - done >= kBlockBytes; done += kBlockBytes) {
    const Block block = LoadBlock(data + done);
    h1 = (std::rotl(h1 ^ ScrambleLow(block.low), 27) + h2) * 5 + 0x52dce729;
    h2 = (std::rotl(h2 ^ ScrambleHigh(block.high), 31) + h1) * 5 + 0x38495ab5;
  }
  // An absent tail is a block of zeros, which scrambles to zero and leaves the state as it is.
  const Block tail = LoadTail(data + done, length - done, readable - done);
  h1 ^= ScrambleLow(tail.low) ^ length;
  h2 ^= ScrambleHigh(tail.high) ^ length;
  h1 += h2;
  h2 += h1;
  return Fmix64(h1) + Fmix64(h2);
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
    keys[i] = HashReadable(bytes.data() + first, static_cast<size_t>(end - begin),
                           bytes.size() - first, seed);
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
