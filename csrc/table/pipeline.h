// Looking up many keys with their memory on its way.
//
// Thread-safety: as the stages that are passed.
#pragma once

#include <algorithm>
#include <cstddef>

namespace embery {

// Keys between one stage of a lookup and the next: memory takes about that long to come.
inline constexpr size_t kAhead = 8;

// Calls, for every i in [0, count) in ascending order, fetch_bucket(i), fetch_overflow(i),
// fetch_record(i) and use(i), each kAhead keys after the one before.
template <typename FetchBucket, typename FetchOverflow, typename FetchRecord, typename Use>
void RunPipeline(size_t count, FetchBucket fetch_bucket, FetchOverflow fetch_overflow,
                 FetchRecord fetch_record, Use use) {
  for (size_t i = 0; i < std::min(count, 3 * kAhead); ++i) fetch_bucket(i);
  for (size_t i = 0; i < std::min(count, 2 * kAhead); ++i) fetch_overflow(i);
  for (size_t i = 0; i < std::min(count, kAhead); ++i) fetch_record(i);
  for (size_t i = 0; i < count; ++i) {
    if (i + 3 * kAhead < count) fetch_bucket(i + 3 * kAhead);
    if (i + 2 * kAhead < count) fetch_overflow(i + 2 * kAhead);
    if (i + kAhead < count) fetch_record(i + kAhead);
    use(i);
  }
}

}  // namespace embery
