// What a batch asks of its tables: which distinct rows, and where each value of each feature finds
// its own. A plan is made once a batch and serves the pull, the pooling, its gradient and the push.
//
// Thread-safety: a BatchPlan never changes after it was made. A Planner may be used from any
// thread. Ownership: a plan copies what it needs of the batch. Invariants of a plan:
//  1. The keys of a table are distinct, in order of first appearance: feature by feature in the
//  order
//     of the layout, sample by sample, value by value.
//  2. Rows live in one flat float32 buffer, the tables one after the other: row r of table t begins
//  at
//     row_begin[t] + r * dim(t).
//  3. Values lie feature by feature in the order of the layout, whatever their order in the batch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/recycler.h"
#include "base/status.h"
#include "base/thread_pool.h"
#include "batch/distinct.h"

namespace embery {

// How the rows of one sample become one vector; n is the number of rows, weights count as given.
enum class Pooling : uint8_t {
  kSum,    // sum of w x
  kMean,   // sum of w x / n
  kSqrtN,  // sum of w x / sqrt(n)
};

struct FeatureSpec {
  std::string name;
  uint32_t table;  // Position in BatchLayout::table_dims.
  Pooling pooling;
};

// The features of a module, in the order of its output, and the dims of the tables they read.
struct BatchLayout {
  std::vector<uint32_t> table_dims;
  std::vector<FeatureSpec> features;
  std::vector<size_t> column_begin;  // Of each feature in a row of the output; filled by Finish.
  size_t columns = 0;

  // Fills what follows from the rest; InvalidArgument if a feature names no table or a dim is 0.
  Status Finish();

  uint32_t DimOf(size_t feature) const { return table_dims[features[feature].table]; }
};

// The sparse part of a batch as it arrives: borrowed for the time of the call.
struct BatchView {
  std::span<const uint64_t> values;
  std::span<const int64_t> lengths;     // lengths[k * samples + b] of the batch's key k.
  std::span<const float> weights;       // Empty, or one a value.
  std::span<const uint32_t> positions;  // positions[f]: the batch's key that holds feature f.
  size_t samples;
};

struct BatchPlan {
  std::shared_ptr<const BatchLayout> layout;
  size_t samples = 0;
  size_t batch_values = 0;                  // Values of the whole batch, unused features included.
  std::vector<std::vector<uint64_t>> keys;  // Of each table.
  std::vector<size_t> row_begin;            // In floats; one entry more than tables.
  std::vector<size_t> batch_begin;          // Where each feature's values begin in the batch.
  std::vector<uint32_t> bag_begin;  // Bag f * samples + b begins here; one entry more than bags.
  std::vector<RowIndex> rows;       // Row, within its table, of each value.
  std::vector<float> weights;       // Empty, or one a value.

  size_t FloatCount() const { return row_begin.back(); }
  uint32_t ValueBegin(size_t feature) const { return bag_begin[feature * samples]; }
  uint32_t ValueEnd(size_t feature) const { return bag_begin[(feature + 1) * samples]; }
};

class Planner {
 public:
  Planner(std::shared_ptr<const BatchLayout> layout, ThreadPool* pool);

  // Makes the plan of `batch`. InvalidArgument, naming feature and place, if lengths are negative
  // or do not add up, or if a weight is not finite.
  Result<std::shared_ptr<const BatchPlan>> Plan(const BatchView& batch);

 private:
  Status PlaceBags(const BatchView& batch, BatchPlan& plan) const;
  Status CopyWeights(const BatchView& batch, BatchPlan& plan) const;
  void FindRows(const BatchView& batch, uint32_t table, BatchPlan& plan);

  const std::shared_ptr<const BatchLayout> layout_;
  ThreadPool* const pool_;
  std::vector<std::vector<uint32_t>> features_of_;  // Of each table, ascending.
  Recycler<DistinctFinder> finders_;
};

}  // namespace embery
