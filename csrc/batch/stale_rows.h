// Which rows of a batch fetched ahead have to be read again when its turn comes.
//
// RecentPushes is a table of stamps: a pushed key stamps its place with the number of the push.
// Keys that share a place can only make a row look newer than it is, so a stale row is never
// missed, and a row read again needlessly is the same row.
//
// Thread-safety: RecentPushes is guarded by its own lock; the functions are pure. Invariant: a
// stamp never falls.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/mutex.h"
#include "batch/plan.h"

namespace embery {

class RecentPushes {
 public:
  // Holds 2^stamps_log2 stamps; several times the keys of the pushes to tell apart is plenty.
  explicit RecentPushes(int stamps_log2);

  // Notes that push `number` wrote `keys` of the table whose salt this is. Numbers never fall.
  void Record(uint64_t salt, std::span<const uint64_t> keys, uint64_t number);

  // Appends to `rows` the position of every key that is flagged in `absent` or that a push with a
  // number above `since` may have written. Requires: absent.size() == keys.size().
  void FindStale(uint64_t salt, std::span<const uint64_t> keys, std::span<const uint8_t> absent,
                 uint64_t since, std::vector<RowIndex>& rows) const;

 private:
  size_t PlaceOf(uint64_t salt, uint64_t key) const;

  const int shift_;
  mutable Mutex mutex_;
  std::vector<uint64_t> stamps_ GUARDED_BY(mutex_);
};

// Some rows of a plan, a list of positions and one of keys for each table.
struct RowSubset {
  std::vector<std::vector<RowIndex>> rows;
  std::vector<std::vector<uint64_t>> keys;
  size_t floats = 0;  // Of all the rows.
};

// What is known of a plan's rows since they were read.
struct ReadAhead {
  std::span<const uint8_t> absent;     // One a row of the plan, the tables one after the other.
  std::span<const uint64_t> salts;     // Of each table.
  std::span<const uint8_t> all_stale;  // Of each table: nothing that was read of it counts.
  uint64_t since;                      // The last push that was complete before the rows were read.
};

// Returns the rows to read again. Requires: the spans of `read` fit the plan.
RowSubset SelectStale(const BatchPlan& plan, const ReadAhead& read, const RecentPushes& pushes);

// Copies the rows of `subset`, which lie densely in `from`, to their places in the flat buffer
// `to`.
void CopyRows(const BatchPlan& plan, const RowSubset& subset, const float* from, float* to);

}  // namespace embery
