// Counter-based random numbers: a value is a pure function of (seed, key, counter).
//
// Thread-safety: pure functions. The finaliser is splitmix64's (Steele, Lea, Flood, OOPSLA 2014).
#pragma once

#include <cstdint>

namespace embery {

constexpr uint64_t SplitMix64(uint64_t x) {
  x += 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

// The stream of one (seed, key); At(i) is its i-th value.
class RandomStream {
 public:
  constexpr RandomStream(uint64_t seed, uint64_t key) : base_(SplitMix64(SplitMix64(seed) ^ key)) {}

  constexpr uint64_t At(uint64_t counter) const { return SplitMix64(base_ + counter); }

  // Uniform in (0, 1): 52 bits and a half, which a double holds exactly, so never an end point.
  constexpr double UnitAt(uint64_t counter) const {
    return (static_cast<double>(At(counter) >> 12) + 0.5) * 0x1p-52;
  }

 private:
  uint64_t base_;
};

}  // namespace embery
