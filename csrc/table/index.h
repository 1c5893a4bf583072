// The index of a slot group: from a mixed key to the handle of its record.
//
// Open addressing over buckets of eight entries, one cache line each: eight tags, eight handles. A
// tag's home bucket is proportional to the tag, so entries lie in the order of their tags, those of
// a slot together, and growing needs nothing but the tags. A key that finds its bucket full goes to
// the next; a search ends at the first bucket with an empty entry.
//
// Large arrays consist of segments of one size, which come from huge pages and are used again:
// freed arrays of ever new sizes would leave holes.
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
#include <vector>

#include "base/memory.h"
#include "base/mutex.h"
#include "base/prefetch.h"
#include "table/record_pool.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace embery {

// Segments of index arrays, for all groups of a table.
class SegmentPool {
 public:
  // Zeroed memory of one segment, aligned to a cache line; null if the system has none left.
  std::byte* Take() EXCLUDES(mutex_);
  void Return(std::byte* segment) EXCLUDES(mutex_);

 private:
  std::byte* Cut() REQUIRES(mutex_);

  Mutex mutex_;
  std::vector<Region> slabs_ GUARDED_BY(mutex_);
  size_t used_in_last_ GUARDED_BY(mutex_) = 0;
  size_t total_bytes_ GUARDED_BY(mutex_) = 0;
  std::vector<std::byte*> free_ GUARDED_BY(mutex_);
};

class Index {
 public:
  static constexpr uint32_t kEntriesPerBucket = 8;

  static constexpr uint32_t kSegmentShift = 9;
  static constexpr uint64_t kSegmentBuckets = uint64_t{1} << kSegmentShift;
  static constexpr size_t kSegmentBytes = kSegmentBuckets * kCacheLineBytes;

  struct alignas(kCacheLineBytes) Bucket {
    uint32_t tags[kEntriesPerBucket];
    Handle handles[kEntriesPerBucket];
  };

  // `stagger` in [0, 1): where within a growth step this index's sizes lie. `segments` must outlive
  // it.
  Index(SegmentPool& segments, double stagger) : segments_(&segments), stagger_(stagger) {}

  // The steps of a guess at the handle for a tag, for callers that do something between them. First
  // where the search begins:
  const Bucket* HomeBucket(uint32_t tag) const {
    return current_.count == 0 ? &kNoEntries : &current_.At(current_.HomeOf(tag));
  }
  // Then the handle of an entry with this tag in that bucket, or kNoHandle.
  static Handle GuessIn(const Bucket& home, uint32_t tag) {
    const uint32_t match = MatchMask(home.tags, tag);
    const Handle handle = home.handles[__builtin_ctz(match | 1u << (kEntriesPerBucket - 1))];
    return match != 0 && IsLive(handle) ? handle : kNoHandle;
  }
  // And if there is none, perhaps because the bucket turned it away, the whole search.
  void PrefetchOverflow(uint32_t tag) const {
    if (current_.count != 0) PrefetchLine(&current_.At(current_.After(current_.HomeOf(tag))));
  }
  // The handle of the first entry with this tag, or kNoHandle: a guess that is nearly always right,
  // made without looking at a record.
  Handle Guess(uint32_t tag) const {
    return Find(tag, [](Handle) { return true; });
  }

  // Returns the handle for which `is_key(handle)` among the entries with this tag, or kNoHandle.
  template <typename IsKey>
  Handle Find(uint32_t tag, IsKey is_key) const {
    const Handle handle = FindIn(current_, tag, is_key);
    if (handle != kNoHandle || previous_.count == 0) return handle;
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

  ~Index();
  Index(const Index&) = delete;
  Index& operator=(const Index&) = delete;

  // Forgets all entries.
  void Clear();
  // Calls visit(tag, handle) for all entries, in no useful order.
  void ForEach(const std::function<void(uint32_t, Handle)>& visit) const {
    ForEachBetween(0, UINT32_MAX, visit);
  }
  // The same for those with tags from `first` to `last`, which lie together.
  void ForEachBetween(uint32_t first, uint32_t last,
                      const std::function<void(uint32_t, Handle)>& visit) const;

  size_t size() const { return current_.live + previous_.live; }
  size_t bytes() const { return (current_.count + previous_.count) * sizeof(Bucket); }

 private:
  struct Array {
    uint64_t HomeOf(uint32_t tag) const { return uint64_t{tag} * count >> 32; }
    uint64_t After(uint64_t bucket) const { return bucket + 1 == count ? 0 : bucket + 1; }
    Bucket& At(uint64_t bucket) const {
      return segments[bucket >> kSegmentShift][bucket % kSegmentBuckets];
    }

    std::vector<Bucket*> segments;
    Region small;  // The only segment of an array that does not fill one.
    uint64_t count = 0;
    size_t live = 0;
    size_t deleted = 0;
  };

  static constexpr Bucket kNoEntries = {};

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
    uint64_t at = array.count == 0 ? 0 : array.HomeOf(tag);
    for (uint64_t seen = 0; seen < array.count; ++seen, at = array.After(at)) {
      const Bucket& bucket = array.At(at);
      for (uint32_t match = MatchMask(bucket.tags, tag); match != 0; match &= match - 1) {
        const Handle handle = bucket.handles[__builtin_ctz(match)];
        if (IsLive(handle) && is_key(handle)) return handle;
      }
      if (MatchMask(bucket.handles, kNoHandle) != 0) return kNoHandle;
    }
    return kNoHandle;
  }

  uint64_t BucketsFor(size_t entries) const;
  bool Allocate(uint64_t buckets, Array& array);
  void Release(Array& array);
  static void InsertIn(Array& array, uint32_t tag, Handle handle);
  static bool EraseIn(Array& array, uint32_t tag, Handle handle);

  SegmentPool* segments_;
  double stagger_;
  Array current_;
  Array previous_;
  uint64_t migrated_ = 0;  // Buckets of previous_ that are done.
};

}  // namespace embery
