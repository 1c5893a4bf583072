// Large memory that is used again: a fresh mapping costs about as much as copying rows into it, as
// the system zeroes its pages.
//
// Thread-safety: all functions may be called from any thread. Ownership: a taken region is the
// caller's, who gives it back or just drops it. Invariants: at most kBytesMax lie idle.
#pragma once

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <utility>
#include <vector>

#include "base/memory.h"
#include "base/mutex.h"

namespace embery {

class RegionPool {
 public:
  static constexpr size_t kBytesMax = size_t{256} << 20;

  // Memory of at least `bytes`, its contents undefined; an empty Region if the system has none
  // left.
  Region Take(size_t bytes) EXCLUDES(mutex_) {
    {
      const MutexLock lock(mutex_);
      for (auto it = idle_.rbegin(); it != idle_.rend(); ++it) {
        // One that is much too large is kept for a larger request.
        if (it->bytes() < bytes || it->bytes() / 2 > bytes) continue;
        Region region = std::move(*it);
        idle_.erase(std::next(it).base());
        idle_bytes_ -= region.bytes();
        return region;
      }
    }
    return Region::Allocate(bytes);
  }

  void Return(Region region) EXCLUDES(mutex_) {
    std::vector<Region> dropped;  // Unmapped after the lock is released.
    const MutexLock lock(mutex_);
    idle_bytes_ += region.bytes();
    idle_.push_back(std::move(region));
    size_t count = 0;  // The oldest go first.
    for (; idle_bytes_ > kBytesMax; ++count) idle_bytes_ -= idle_[count].bytes();
    const auto end = idle_.begin() + static_cast<std::ptrdiff_t>(count);
    std::move(idle_.begin(), end, std::back_inserter(dropped));
    idle_.erase(idle_.begin(), end);
  }

  size_t idle_bytes() const EXCLUDES(mutex_) {
    const MutexLock lock(mutex_);
    return idle_bytes_;
  }

 private:
  mutable Mutex mutex_;
  std::vector<Region> idle_ GUARDED_BY(mutex_);  // Oldest first.
  size_t idle_bytes_ GUARDED_BY(mutex_) = 0;
};

}  // namespace embery
