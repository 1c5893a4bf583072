#include "batch/plan.h"

#include <cmath>
#include <limits>

namespace embery {
namespace {

// Rows and bags are counted in 32 bits.
constexpr size_t kValuesMax = std::numeric_limits<int32_t>::max();

std::string Quoted(const std::string& name) { return "'" + name + "'"; }

}  // namespace

Status BatchLayout::Finish() {
  column_begin.clear();
  columns = 0;
  for (uint32_t dim : table_dims) {
    if (dim == 0) return Status::InvalidArgument("a table's dim must be at least 1, got 0");
  }
  for (const FeatureSpec& feature : features) {
    if (feature.table >= table_dims.size()) {
      return Status::InvalidArgument("feature " + Quoted(feature.name) + " names table number " +
                                     std::to_string(feature.table) + " of " +
                                     std::to_string(table_dims.size()));
    }
    column_begin.push_back(columns);
    columns += table_dims[feature.table];
  }
  return Status::Ok();
}

Planner::Planner(std::shared_ptr<const BatchLayout> layout, ThreadPool* pool)
    : layout_(std::move(layout)), pool_(pool), features_of_(layout_->table_dims.size()) {
  for (uint32_t f = 0; f < layout_->features.size(); ++f) {
    features_of_[layout_->features[f].table].push_back(f);
  }
}

Result<std::shared_ptr<const BatchPlan>> Planner::Plan(const BatchView& batch) {
  auto plan = std::make_shared<BatchPlan>();
  plan->layout = layout_;
  plan->samples = batch.samples;
  plan->batch_values = batch.values.size();
  EMBERY_RETURN_IF_ERROR(PlaceBags(batch, *plan));
  EMBERY_RETURN_IF_ERROR(CopyWeights(batch, *plan));

  const size_t tables = layout_->table_dims.size();
  plan->keys.resize(tables);
  plan->rows.resize(plan->bag_begin.back());
  pool_->Run(tables, [&](size_t t) { FindRows(batch, static_cast<uint32_t>(t), *plan); });
  plan->row_begin.assign(1, 0);
  for (size_t t = 0; t < tables; ++t) {
    plan->row_begin.push_back(plan->row_begin.back() +
                              plan->keys[t].size() * layout_->table_dims[t]);
  }
  return std::shared_ptr<const BatchPlan>(std::move(plan));
}

Status Planner::PlaceBags(const BatchView& batch, BatchPlan& plan) const {
  const size_t samples = batch.samples;
  const size_t batch_keys = samples == 0 ? 0 : batch.lengths.size() / samples;
  if (batch.values.size() > kValuesMax) {
    return Status::InvalidArgument("a batch may have " + std::to_string(kValuesMax) +
                                   " values, got " + std::to_string(batch.values.size()) +
                                   "; make it smaller");
  }
  std::vector<size_t> key_begin(1, 0);
  for (size_t k = 0; k < batch_keys; ++k) {
    size_t total = 0;
    for (size_t b = 0; b < samples; ++b) {
      const int64_t length = batch.lengths[k * samples + b];
      if (length < 0 || static_cast<size_t>(length) > kValuesMax) {
        return Status::InvalidArgument("lengths[" + std::to_string(k * samples + b) +
                                       "] must lie in [0, " + std::to_string(kValuesMax) +
                                       "], got " + std::to_string(length));
      }
      total += static_cast<size_t>(length);
    }
    key_begin.push_back(key_begin.back() + total);
  }
  if (key_begin.back() != batch.values.size()) {
    return Status::InvalidArgument("the lengths add up to " + std::to_string(key_begin.back()) +
                                   ", but there are " + std::to_string(batch.values.size()) +
                                   " values");
  }
  plan.bag_begin.reserve(layout_->features.size() * samples + 1);
  plan.bag_begin.push_back(0);
  for (size_t f = 0; f < layout_->features.size(); ++f) {
    const size_t k = batch.positions[f];
    plan.batch_begin.push_back(samples == 0 ? 0 : key_begin[k]);
    for (size_t b = 0; b < samples; ++b) {
      const auto length = static_cast<uint32_t>(batch.lengths[k * samples + b]);
      plan.bag_begin.push_back(plan.bag_begin.back() + length);
    }
  }
  return Status::Ok();
}

Status Planner::CopyWeights(const BatchView& batch, BatchPlan& plan) const {
  if (batch.weights.empty()) return Status::Ok();
  plan.weights.resize(plan.bag_begin.back());
  for (size_t f = 0; f < layout_->features.size(); ++f) {
    const size_t begin = plan.ValueBegin(f);
    const size_t count = plan.ValueEnd(f) - begin;
    for (size_t i = 0; i < count; ++i) {
      const float weight = batch.weights[plan.batch_begin[f] + i];
      if (!std::isfinite(weight)) {
        return Status::InvalidArgument("weight " + std::to_string(i) + " of feature " +
                                       Quoted(layout_->features[f].name) +
                                       " is not finite: " + std::to_string(weight));
      }
      plan.weights[begin + i] = weight;
    }
  }
  return Status::Ok();
}

void Planner::FindRows(const BatchView& batch, uint32_t table, BatchPlan& plan) {
  size_t count = 0;
  for (uint32_t f : features_of_[table]) count += plan.ValueEnd(f) - plan.ValueBegin(f);
  if (count == 0) return;
  const auto finder = finders_.Take();
  finder->Begin(count);
  std::vector<uint64_t>& keys = plan.keys[table];
  keys.reserve(count);
  for (uint32_t f : features_of_[table]) {
    const size_t begin = plan.ValueBegin(f);
    const auto values = batch.values.subspan(plan.batch_begin[f], plan.ValueEnd(f) - begin);
    finder->Add(values, keys, plan.rows.data() + begin);
  }
}

}  // namespace embery
