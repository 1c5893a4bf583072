// Many keys of frozen tables at once: their rows pooled into the vectors a model reads.
//
// Keys of all features go through the index together, block by block, so that their cache misses
// overlap even if each feature has one key.
//
// Thread-safety: all methods may be called from any thread; each runs in the thread that calls it.
// Ownership: shares its tables; arguments are borrowed for the call. Invariant: the result has the
// bits that batch/pooling.h gives for the same rows, an absent row being zeros.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/status.h"
#include "batch/plan.h"
#include "optim/kernels.h"
#include "serving/frozen_table.h"

namespace embery {

// A feature of a model: where its rows are, and how they are pooled.
struct FrozenFeature {
  uint32_t table;  // Position in the list of tables.
  Pooling pooling;
};

// The samples of all features, feature by feature and within one sample by sample.
struct FrozenBatch {
  std::span<const uint64_t> keys;
  std::span<const int64_t> lengths;  // lengths[f * samples + b].
  std::span<const float> weights;    // Empty, or one a key.
  size_t samples;
};

class FrozenLookup {
 public:
  using Tables = std::vector<std::shared_ptr<const FrozenTable>>;

  // InvalidArgument if there is no feature, or one names no table.
  static Result<std::unique_ptr<const FrozenLookup>> Make(
      Tables tables, const std::vector<FrozenFeature>& features);

  size_t features() const { return features_.size(); }
  size_t columns() const { return columns_; }

  // Fills `out` (samples, columns), the features side by side, a sample without keys with zeros.
  // Returns how many keys were found. InvalidArgument, and `out` as it was, if the lengths are
  // negative, not one a feature and sample, or do not add up.
  Result<size_t> Pool(const FrozenBatch& batch, float* out) const;

  // Fills `out` (keys, dim) with the rows of one feature, zeros for a key that is absent. Returns
  // how many were found.
  size_t Gather(size_t feature, std::span<const uint64_t> keys, float* out) const;

 private:
  struct Feature {
    const FrozenTable* table;
    Pooling pooling;
    uint32_t dim;
    size_t column;
    Kernels::DecodeFn decode;  // Null where rows are float32 and read where they lie.
    void (*set)(const float* row, float weight, size_t dim, float* to);
    void (*add)(const float* row, float weight, size_t dim, float* to);
  };
  class BagWriter;

  FrozenLookup(Tables tables, const std::vector<FrozenFeature>& features, const Kernels& kernels);
  Status CheckLengths(const FrozenBatch& batch) const;

  const Tables tables_;
  std::vector<Feature> features_;
  size_t columns_ = 0;
  uint32_t dim_max_ = 0;
  std::vector<float> zeros_;  // The row of a key that is absent.
};

}  // namespace embery
