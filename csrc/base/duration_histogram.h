// How long things took, counted in buckets whose bounds double.
//
// Thread-safety: may be called from any thread; a reader may see a duration in a bucket and not yet
// in the sum.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <chrono>
#include <cstddef>
#include <cstdint>

#include "base/counter.h"

namespace embery {

class DurationHistogram {
 public:
  // Bucket i holds what took at most kFirstBound * 2^i, and longer than the bucket before; the one
  // after the last bound, 16.8 s, holds the rest.
  static constexpr std::chrono::nanoseconds kFirstBound = std::chrono::microseconds(8);
  static constexpr size_t kBounds = 22;

  static constexpr std::chrono::nanoseconds Bound(size_t bucket) {
    return kFirstBound * (int64_t{1} << bucket);
  }

  void Add(std::chrono::nanoseconds took) {
    const auto nanoseconds = static_cast<uint64_t>(std::max(took, took.zero()).count());
    const auto first = static_cast<uint64_t>(kFirstBound.count());
    // In units of the first bound, rounded up, less one: as many bits as the bucket's number.
    const uint64_t above = nanoseconds == 0 ? 0 : (nanoseconds - 1) / first;
    Count(counts_[std::min(static_cast<size_t>(std::bit_width(above)), kBounds)], 1);
    Count(sum_ns_, nanoseconds);
  }

  uint64_t count(size_t bucket) const {
    return counts_[bucket].load(std::memory_order_relaxed);  // A counter orders nothing.
  }
  std::chrono::nanoseconds sum() const {
    return std::chrono::nanoseconds(
        sum_ns_.load(std::memory_order_relaxed));  // A counter orders nothing.
  }

 private:
  std::array<std::atomic<uint64_t>, kBounds + 1> counts_{};
  std::atomic<uint64_t> sum_ns_{0};
};

}  // namespace embery
