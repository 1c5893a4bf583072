// Counting what happened, from any thread.
//
// Thread-safety: may be called from any thread.
#pragma once

#include <atomic>
#include <cstdint>

namespace embery {

inline void Count(std::atomic<uint64_t>& counter, uint64_t by) {
  counter.fetch_add(by, std::memory_order_relaxed);  // A counter orders nothing.
}

}  // namespace embery
