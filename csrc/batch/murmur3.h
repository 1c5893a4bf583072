// MurmurHash3 x64-128 (Austin Appleby, public domain), its low 64 bits: how strings become keys.
//
// Bit-identical to `mmh3.hash64(data, seed, signed=False)[0]` of PyPI mmh3, and therefore part of
// the meaning of every table whose keys were strings: the golden values in murmur3_test.cc never
// change. Thread-safety: pure functions. Ownership: arguments are borrowed for the call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/status.h"

namespace embery {

// The low 64 bits of the hash of `length` bytes. `data` may be null where `length` is 0.
[[nodiscard]] uint64_t Murmur3Low64(const void* data, size_t length, uint32_t seed);

// Strings in Arrow's layout: string i is bytes [offsets[i], offsets[i + 1]) of `bytes`. Offset is
// int32_t (utf8, binary) or int64_t (large_utf8, large_binary).
template <typename Offset>
struct StringColumn {
  std::span<const Offset> offsets;
  std::span<const uint8_t> bytes;

  [[nodiscard]] size_t size() const { return offsets.empty() ? 0 : offsets.size() - 1; }
};

// Hashes every string into `keys`, which must have `column.size()` elements. An offset that
// decreases or leaves `bytes` is an InvalidArgument that names its place; `keys` is then partly
// written.
template <typename Offset>
[[nodiscard]] Status HashStrings(const StringColumn<Offset>& column, uint32_t seed,
                                 std::span<uint64_t> keys);

// Reads every string as 1 to 16 hexadecimal digits of either case into `keys`; an empty string
// gives 0. Anything else is an InvalidArgument that names its place; `keys` is then partly written.
template <typename Offset>
[[nodiscard]] Status ParseHexStrings(const StringColumn<Offset>& column, std::span<uint64_t> keys);

}  // namespace embery
