// The index of a slot group: from a mixed key to the handle of its record.
//
// Open addressing over buckets of eight entries, one cache line each: eight tags, eight handles. A
// tag's home bucket is proportional to the tag, so entries lie in the order of their tags, those of
// a slot together, and growing needs nothing but the tags. A key that finds its bucket full goes to
// the next; a search ends at the first bucket with an empty entry.
//
// Growth moves entries from the previous array to the current one a piece at a time (`Migrate`), so
// that no operation waits for a whole table; until that is done a search looks into both. The sizes
// at which groups grow are spread (`stagger`), so that they do not all grow at once.
//
// Thread-safety: none of its own; the group's lock guards it: shared for Find, exclusive for the
// rest. Invariants: a (tag, handle) is stored once; at least a tenth of the current array is empty;
// an entry whose handle is kNoHandle is empty, one of kHandleMax was deleted.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "base/memory.h"
#include "table/record_pool.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace embery {

class Index {
 public:
  static constexpr uint32_t kEntriesPerBucket = 8;

  struct alignas(kCacheLineBytes) Bucket {
    uint32_t tags[kEntriesPerBucket];
    Handle handles[kEntriesPerBucket];
  };

  // `stagger` in [0, 1): where within a growth step this index's sizes lie.
  explicit Index(double stagger) : stagger_(stagger) {}

  void Prefetch(uint32_t tag) const {
    if (current_.buckets != nullptr) __builtin_prefetch(&current_.Home(tag));
  }

  // The handle of the first entry with this tag in its home bucket, or kNoHandle: a guess that is
  // nearly always right, made without looking at the record.
  Handle Guess(uint32_t tag) const {
    if (current_.buckets == nullptr) return kNoHandle;
    const Bucket& bucket = current_.Home(tag);
    for (uint32_t match = MatchMask(bucket.tags, tag); match != 0; match &= match - 1) {
      const Handle handle = bucket.handles[__builtin_ctz(match)];
      if (IsLive(handle)) return handle;
    }
    return kNoHandle;
  }

  // Returns the handle for which `is_key(handle)` among the entries with this tag, or kNoHandle.
  template <typename IsKey>
  Handle Find(uint32_t tag, IsKey is_key) const {
    const Handle handle = FindIn(current_, tag, is_key);
    if (handle != kNoHandle || previous_.buckets == nullptr) return handle;
    return FindIn(previous_, tag, is_key);
  }

  // Makes room for `count` insertions; false if memory is used up, and the index is as before.
  [[nodiscard]] bool Reserve(size_t count);
  // Requires that the key is absent and that there is room.
  void Insert(uint32_t tag, Handle handle);
  // Requires that (tag, handle) is stored.
  void Erase(uint32_t tag, Handle handle);
  // Moves up to `entries` entries of a growth under way.
  void Migrate(size_t entries);

  // Calls visit(tag, handle) for all entries, in no useful order.
  void ForEach(const std::function<void(uint32_t, Handle)>& visit) const;

  size_t size() const { return current_.live + previous_.live; }
  size_t bytes() const { return current_.region.bytes() + previous_.region.bytes(); }

 private:
  struct Array {
    Bucket& Home(uint32_t tag) const { return buckets[static_cast<uint64_t>(tag) * count >> 32]; }

    Region region;
    Bucket* buckets = nullptr;
    uint64_t count = 0;
    size_t live = 0;
    size_t deleted = 0;
  };

  static bool IsLive(Handle handle) { return handle != kNoHandle && handle != kHandleMax; }

  // Bit i is set where values[i] == wanted.
  static uint32_t MatchMask(const uint32_t (&values)[kEntriesPerBucket], uint32_t wanted) {
#if defined(__SSE2__)
    const __m128i key = _mm_set1_epi32(static_cast<int>(wanted));
    const auto* lines = reinterpret_cast<const __m128i*>(values);
    const __m128i low = _mm_cmpeq_epi32(_mm_load_si128(lines), key);
    const __m128i high = _mm_cmpeq_epi32(_mm_load_si128(lines + 1), key);
    return static_cast<uint32_t>(_mm_movemask_ps(_mm_castsi128_ps(low))) |
           static_cast<uint32_t>(_mm_movemask_ps(_mm_castsi128_ps(high))) << 4;
#else
    uint32_t mask = 0;
    for (uint32_t i = 0; i < kEntriesPerBucket; ++i) mask |= uint32_t{values[i] == wanted} << i;
    return mask;
#endif
  }

  template <typename IsKey>
  static Handle FindIn(const Array& array, uint32_t tag, IsKey is_key) {
    if (array.buckets == nullptr) return kNoHandle;
    const Bucket* const end = array.buckets + array.count;
    const Bucket* bucket = &array.Home(tag);
    for (uint64_t seen = 0; seen < array.count; ++seen) {
      for (uint32_t match = MatchMask(bucket->tags, tag); match != 0; match &= match - 1) {
        const Handle handle = bucket->handles[__builtin_ctz(match)];
        if (IsLive(handle) && is_key(handle)) return handle;
      }
      if (MatchMask(bucket->handles, kNoHandle) != 0) return kNoHandle;
      if (++bucket == end) bucket = array.buckets;
    }
    return kNoHandle;
  }

  uint64_t BucketsFor(size_t entries) const;
  static void InsertIn(Array& array, uint32_t tag, Handle handle);
  static bool EraseIn(Array& array, uint32_t tag, Handle handle);

  double stagger_;
  Array current_;
  Array previous_;
  uint64_t migrated_ = 0;  // Buckets of previous_ that are done.
};

}  // namespace embery
