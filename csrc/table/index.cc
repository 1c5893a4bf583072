#include "table/index.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

namespace embery {
namespace {

constexpr double kLoadMax = 0.9;
constexpr double kGrowth = 1.15;
// The first slabs of segments are small, as small tables are.
constexpr size_t kSlabBytesMin = size_t{256} << 10;
// Up to here a growth is done at once: it takes less time than a batch.
constexpr size_t kMigrateAtOnce = 16384;

}  // namespace

std::byte* SegmentPool::Take() {
  MutexLock lock(mutex_);
  if (free_.empty()) return Cut();
  std::byte* segment = free_.back();
  free_.pop_back();
  std::memset(segment, 0, Index::kSegmentBytes);
  return segment;
}

std::byte* SegmentPool::Cut() {
  if (slabs_.empty() || used_in_last_ + Index::kSegmentBytes > slabs_.back().bytes()) {
    // A quarter of what there is, but whole huge pages as soon as there is a share of one to fill:
    // on small pages a random access also waits for the translation of its address.
    const size_t bytes = total_bytes_ < kSlabBytesMin * 4 ? kSlabBytesMin
                                                          : (total_bytes_ / 4 + kHugePageBytes) /
                                                                kHugePageBytes * kHugePageBytes;
    Region slab = Region::Allocate(bytes);
    if (!slab) return nullptr;
    total_bytes_ += slab.bytes();
    used_in_last_ = 0;
    slabs_.push_back(std::move(slab));
  }
  std::byte* segment = slabs_.back().data() + used_in_last_;
  used_in_last_ += Index::kSegmentBytes;
  return segment;
}

void SegmentPool::Return(std::byte* segment) {
  MutexLock lock(mutex_);
  free_.push_back(segment);
}

uint64_t Index::BucketsFor(size_t entries) const {
  const double wanted = std::max(1.0, static_cast<double>(entries) / kLoadMax / kEntriesPerBucket);
  // The next of kGrowth^(k + stagger), so that groups of one table grow one after the other.
  const double exponent = std::ceil(std::log(wanted) / std::log(kGrowth) - stagger_) + stagger_;
  return static_cast<uint64_t>(std::ceil(std::pow(kGrowth, std::max(0.0, exponent))));
}

bool Index::Allocate(uint64_t buckets, Array& array) {
  if (buckets < kSegmentBuckets) {
    array.small = Region::Allocate(buckets * sizeof(Bucket));
    if (!array.small) return false;
    array.segments.push_back(reinterpret_cast<Bucket*>(array.small.data()));
    array.count = buckets;
    return true;
  }
  const uint64_t segments = (buckets + kSegmentBuckets - 1) / kSegmentBuckets;
  for (uint64_t i = 0; i < segments; ++i) {
    std::byte* segment = segments_->Take();
    if (segment == nullptr) {
      Release(array);
      return false;
    }
    array.segments.push_back(reinterpret_cast<Bucket*>(segment));
  }
  array.count = segments * kSegmentBuckets;
  return true;
}

void Index::Release(Array& array) {
  if (!array.small) {
    for (Bucket* segment : array.segments) {
      segments_->Return(reinterpret_cast<std::byte*>(segment));
    }
  }
  array = Array{};
}

Index::~Index() { Clear(); }

void Index::Clear() {
  Release(previous_);
  Release(current_);
}

bool Index::Reserve(size_t count) {
  const auto capacity =
      static_cast<size_t>(static_cast<double>(current_.count * kEntriesPerBucket) * kLoadMax);
  if (size() + current_.deleted + count <= capacity) return true;
  // A growth under way has to end before the next begins.
  Migrate(SIZE_MAX);
  Array grown;
  // A sixteenth of room at least: deletions and insertions in turn must not rebuild each time.
  if (!Allocate(BucketsFor(size() + std::max(count, size() / 16 + 1)), grown)) return false;
  previous_ = std::exchange(current_, std::move(grown));
  migrated_ = 0;
  if (previous_.live <= kMigrateAtOnce) Migrate(SIZE_MAX);
  return true;
}

void Index::Insert(uint32_t tag, Handle handle) { InsertIn(current_, tag, handle); }

void Index::InsertIn(Array& array, uint32_t tag, Handle handle) {
  uint64_t at = array.HomeOf(tag);
  while (true) {
    Bucket& bucket = array.At(at);
    const uint32_t deleted = MatchMask(bucket.handles, kHandleMax);
    const uint32_t open = deleted | MatchMask(bucket.handles, kNoHandle);
    if (open != 0) {
      const auto i = static_cast<uint32_t>(__builtin_ctz(open));
      array.deleted -= deleted >> i & 1;
      ++array.live;
      bucket.tags[i] = tag;
      bucket.handles[i] = handle;
      return;
    }
    at = array.After(at);
  }
}

void Index::Erase(uint32_t tag, Handle handle) {
  if (!EraseIn(current_, tag, handle)) EraseIn(previous_, tag, handle);
}

bool Index::EraseIn(Array& array, uint32_t tag, Handle handle) {
  uint64_t at = array.count == 0 ? 0 : array.HomeOf(tag);
  for (uint64_t seen = 0; seen < array.count; ++seen, at = array.After(at)) {
    Bucket& bucket = array.At(at);
    const bool last = MatchMask(bucket.handles, kNoHandle) != 0;
    for (uint32_t match = MatchMask(bucket.tags, tag); match != 0; match &= match - 1) {
      const int i = __builtin_ctz(match);
      if (bucket.handles[i] != handle) continue;
      // Only while a bucket has no empty entry may a key that it turned away lie behind it.
      bucket.handles[i] = last ? kNoHandle : kHandleMax;
      array.deleted += last ? 0 : 1;
      --array.live;
      return true;
    }
    if (last) return false;
  }
  return false;
}

void Index::Migrate(size_t entries) {
  if (previous_.count == 0) return;
  for (size_t moved = 0; moved < entries && migrated_ < previous_.count; ++migrated_) {
    Bucket& bucket = previous_.At(migrated_);
    for (uint32_t i = 0; i < kEntriesPerBucket; ++i) {
      if (!IsLive(bucket.handles[i])) continue;
      InsertIn(current_, bucket.tags[i], bucket.handles[i]);
      // Deleted, not empty: keys that this bucket turned away must still be found behind it.
      bucket.handles[i] = kHandleMax;
      --previous_.live;
      ++moved;
    }
  }
  if (migrated_ == previous_.count) Release(previous_);
}

void Index::ForEachBetween(uint32_t first, uint32_t last,
                           const std::function<void(uint32_t, Handle)>& visit) const {
  for (const Array* array : {&previous_, &current_}) {
    if (array->count == 0) continue;
    const uint64_t home_of_last = array->HomeOf(last);
    uint64_t at = array->HomeOf(first);
    bool is_past = false;
    for (uint64_t seen = 0; seen < array->count; ++seen, at = array->After(at)) {
      const Bucket& bucket = array->At(at);
      for (uint32_t i = 0; i < kEntriesPerBucket; ++i) {
        const uint32_t tag = bucket.tags[i];
        if (IsLive(bucket.handles[i]) && tag >= first && tag <= last) visit(tag, bucket.handles[i]);
      }
      // Behind their last home lie those that were turned away, up to an empty entry.
      is_past = is_past || at == home_of_last;
      if (is_past && MatchMask(bucket.handles, kNoHandle) != 0) break;
    }
  }
}

}  // namespace embery
