#include "batch/stale_rows.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "base/hash.h"

namespace embery {

RecentPushes::RecentPushes(int stamps_log2)
    : shift_(64 - stamps_log2), stamps_(size_t{1} << stamps_log2, 0) {}

size_t RecentPushes::PlaceOf(uint64_t salt, uint64_t key) const {
  return MixKey(salt, key).bits >> shift_;
}

void RecentPushes::Record(uint64_t salt, std::span<const uint64_t> keys, uint64_t number) {
  MutexLock lock(mutex_);
  for (uint64_t key : keys) stamps_[PlaceOf(salt, key)] = number;
}

void RecentPushes::FindStale(uint64_t salt, std::span<const uint64_t> keys,
                             std::span<const uint8_t> absent, uint64_t since,
                             std::vector<RowIndex>& rows) const {
  MutexLock lock(mutex_);
  for (size_t i = 0; i < keys.size(); ++i) {
    if (absent[i] != 0 || stamps_[PlaceOf(salt, keys[i])] > since) {
      rows.push_back(static_cast<RowIndex>(i));
    }
  }
}

RowSubset SelectStale(const BatchPlan& plan, const ReadAhead& read, const RecentPushes& pushes) {
  RowSubset subset;
  size_t row_begin = 0;
  for (size_t t = 0; t < plan.keys.size(); ++t) {
    const std::vector<uint64_t>& keys = plan.keys[t];
    std::vector<RowIndex>& rows = subset.rows.emplace_back();
    if (read.all_stale[t] != 0) {
      rows.resize(keys.size());
      std::iota(rows.begin(), rows.end(), RowIndex{0});
    } else {
      pushes.FindStale(read.salts[t], keys, read.absent.subspan(row_begin, keys.size()), read.since,
                       rows);
    }
    std::vector<uint64_t>& stale_keys = subset.keys.emplace_back(rows.size());
    std::transform(rows.begin(), rows.end(), stale_keys.begin(),
                   [&keys](RowIndex row) { return keys[row]; });
    subset.floats += rows.size() * plan.layout->table_dims[t];
    row_begin += keys.size();
  }
  return subset;
}

void CopyRows(const BatchPlan& plan, const RowSubset& subset, const float* from, float* to) {
  for (size_t t = 0; t < subset.rows.size(); ++t) {
    const size_t dim = plan.layout->table_dims[t];
    float* table = to + plan.row_begin[t];
    for (RowIndex row : subset.rows[t]) {
      std::memcpy(table + row * dim, from, dim * sizeof(float));
      from += dim;
    }
  }
}

}  // namespace embery
