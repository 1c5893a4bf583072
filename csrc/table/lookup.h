// Looking up many keys with their memory on its way.
//
// Short loops over a block of keys, first through the index and then through the records, take
// about half the time of one loop that does both: its branches, often mispredicted, would hold up
// the copying of rows.
//
// Thread-safety: as the index and the functions that are passed.
#pragma once

#include <algorithm>
#include <cstddef>

#include "table/index.h"

namespace embery {

// Records between a fetch and its use: memory takes about that long to come.
inline constexpr size_t kAhead = 8;
// Keys that are located before the first of them is used; their buckets fit the nearest cache.
inline constexpr size_t kLookupBlock = 128;

// For every i in [0, count), in ascending order: use(i, handle), where `handle` is that of the
// first entry for tag_of(i) in index_of(i), or kNoHandle: a guess that is nearly always right, made
// without looking at a record. fetch(i, handle) is called some keys before, to prefetch the record.
template <typename IndexOf, typename TagOf, typename Fetch, typename Use>
void LookUpMany(size_t count, IndexOf index_of, TagOf tag_of, Fetch fetch, Use use) {
  const Index::Bucket* buckets[kLookupBlock];
  Handle guesses[kLookupBlock];
  uint32_t turned_away[kLookupBlock + 1];
  for (size_t begin = 0; begin < count; begin += kLookupBlock) {
    const size_t size = std::min(count - begin, kLookupBlock);
    for (size_t i = 0; i < size; ++i) {
      buckets[i] = index_of(begin + i).HomeBucket(tag_of(begin + i));
      PrefetchLine(buckets[i]);
    }
    size_t turned_away_count = 0;
    for (size_t i = 0; i < size; ++i) {
      guesses[i] = Index::GuessIn(*buckets[i], tag_of(begin + i));
      turned_away[turned_away_count] = static_cast<uint32_t>(i);
      turned_away_count += guesses[i] == kNoHandle;
    }
    for (size_t n = 0; n < turned_away_count; ++n) {
      const size_t i = turned_away[n];
      index_of(begin + i).PrefetchOverflow(tag_of(begin + i));
    }
    for (size_t n = 0; n < turned_away_count; ++n) {
      const size_t i = turned_away[n];
      guesses[i] = index_of(begin + i).Guess(tag_of(begin + i));
    }
    for (size_t i = 0; i < std::min(size, kAhead); ++i) fetch(begin + i, guesses[i]);
    for (size_t i = 0; i < size; ++i) {
      if (i + kAhead < size) fetch(begin + i + kAhead, guesses[i + kAhead]);
      use(begin + i, guesses[i]);
    }
  }
}

}  // namespace embery
