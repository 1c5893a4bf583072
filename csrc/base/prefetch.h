// Fetching memory before it is used.
//
// Thread-safety: touches nothing that the program can observe.
#pragma once

#include <cstddef>

namespace embery {

inline constexpr size_t kCacheLineBytes = 64;

// Starts to fetch the cache line of `address`, which need not be valid.
inline void PrefetchLine(const void* address) {
  // To gcc a function that only prefetches has no effect, and it drops the calls that it has not
  // inlined by then; an empty volatile statement is an effect.
  asm volatile("" : : "r"(address));
  __builtin_prefetch(address);
}

// Starts to fetch `bytes` bytes from `start`; requires bytes > 0.
inline void PrefetchBytes(const void* start, size_t bytes) {
  const auto* line = static_cast<const std::byte*>(start);
  for (size_t offset = 0; offset < bytes; offset += kCacheLineBytes) PrefetchLine(line + offset);
  PrefetchLine(line + bytes - 1);
}

}  // namespace embery
