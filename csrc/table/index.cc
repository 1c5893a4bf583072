#include "table/index.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace embery {
namespace {

constexpr double kLoadMax = 0.9;
constexpr double kGrowth = 1.2;
// Up to here a growth is done at once: it takes less time than a batch.
constexpr size_t kMigrateAtOnce = 16384;

}  // namespace

uint64_t Index::BucketsFor(size_t entries) const {
  const double wanted = std::max(1.0, static_cast<double>(entries) / kLoadMax / kEntriesPerBucket);
  // The next of kGrowth^(k + stagger), so that groups of one table grow one after the other.
  const double exponent = std::ceil(std::log(wanted) / std::log(kGrowth) - stagger_) + stagger_;
  return static_cast<uint64_t>(std::ceil(std::pow(kGrowth, std::max(0.0, exponent))));
}

bool Index::Reserve(size_t count) {
  const auto capacity =
      static_cast<size_t>(static_cast<double>(current_.count * kEntriesPerBucket) * kLoadMax);
  if (size() + current_.deleted + count <= capacity) return true;
  // A growth under way has to end before the next begins.
  Migrate(SIZE_MAX);
  Array grown;
  // An eighth of room at least, so that deletions and insertions in turn do not rebuild each time.
  grown.count = BucketsFor(size() + std::max(count, size() / 8 + 1));
  grown.region = Region::Allocate(grown.count * sizeof(Bucket));
  if (!grown.region) return false;
  grown.buckets = reinterpret_cast<Bucket*>(grown.region.data());
  previous_ = std::exchange(current_, std::move(grown));
  migrated_ = 0;
  if (previous_.live <= kMigrateAtOnce) Migrate(SIZE_MAX);
  return true;
}

void Index::Insert(uint32_t tag, Handle handle) { InsertIn(current_, tag, handle); }

void Index::InsertIn(Array& array, uint32_t tag, Handle handle) {
  const Bucket* const end = array.buckets + array.count;
  Bucket* bucket = &array.Home(tag);
  while (true) {
    const uint32_t deleted = MatchMask(bucket->handles, kHandleMax);
    const uint32_t open = deleted | MatchMask(bucket->handles, kNoHandle);
    if (open != 0) {
      const auto i = static_cast<uint32_t>(__builtin_ctz(open));
      array.deleted -= deleted >> i & 1;
      ++array.live;
      bucket->tags[i] = tag;
      bucket->handles[i] = handle;
      return;
    }
    if (++bucket == end) bucket = array.buckets;
  }
}

void Index::Erase(uint32_t tag, Handle handle) {
  if (!EraseIn(current_, tag, handle)) EraseIn(previous_, tag, handle);
}

bool Index::EraseIn(Array& array, uint32_t tag, Handle handle) {
  if (array.buckets == nullptr) return false;
  const Bucket* const end = array.buckets + array.count;
  Bucket* bucket = &array.Home(tag);
  for (uint64_t seen = 0; seen < array.count; ++seen) {
    const bool last = MatchMask(bucket->handles, kNoHandle) != 0;
    for (uint32_t match = MatchMask(bucket->tags, tag); match != 0; match &= match - 1) {
      const int i = __builtin_ctz(match);
      if (bucket->handles[i] != handle) continue;
      // Only while a bucket has no empty entry may a key that it turned away lie behind it.
      bucket->handles[i] = last ? kNoHandle : kHandleMax;
      array.deleted += last ? 0 : 1;
      --array.live;
      return true;
    }
    if (last) return false;
    if (++bucket == end) bucket = array.buckets;
  }
  return false;
}

void Index::Migrate(size_t entries) {
  if (previous_.buckets == nullptr) return;
  for (size_t moved = 0; moved < entries && migrated_ < previous_.count; ++migrated_) {
    Bucket& bucket = previous_.buckets[migrated_];
    for (uint32_t i = 0; i < kEntriesPerBucket; ++i) {
      if (!IsLive(bucket.handles[i])) continue;
      InsertIn(current_, bucket.tags[i], bucket.handles[i]);
      // Deleted, not empty: keys that this bucket turned away must still be found behind it.
      bucket.handles[i] = kHandleMax;
      --previous_.live;
      ++moved;
    }
  }
  if (migrated_ == previous_.count) previous_ = Array{};
}

void Index::ForEach(const std::function<void(uint32_t, Handle)>& visit) const {
  for (const Array* array : {&previous_, &current_}) {
    for (uint64_t b = 0; b < array->count; ++b) {
      const Bucket& bucket = array->buckets[b];
      for (uint32_t i = 0; i < kEntriesPerBucket; ++i) {
        if (IsLive(bucket.handles[i])) visit(bucket.tags[i], bucket.handles[i]);
      }
    }
  }
}

}  // namespace embery
