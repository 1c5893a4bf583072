#include "client/residuals.h"

#include <algorithm>
#include <cstring>

#include "optim/row_codec.h"

namespace embery {
namespace {

constexpr size_t kHeadsMin = 64;
// Rows that are allocated together, so that growing moves none.
constexpr size_t kBlockRows = 256;

}  // namespace

// ---- a generation -------------------------------------------------------------------------------

uint32_t* Residuals::Generation::HeadOf(uint64_t key) {
  const uint64_t mask = heads_.size() - 1;
  uint64_t at = Fmix64(key) & mask;
  while (heads_[at] != 0 && keys_[heads_[at] - 1] != key) at = (at + 1) & mask;
  return &heads_[at];
}

float* Residuals::Generation::RowAt(size_t number, uint32_t dim) {
  return blocks_[number / kBlockRows].get() + number % kBlockRows * dim;
}

float* Residuals::Generation::Find(uint64_t key, uint32_t dim) {
  if (keys_.empty()) return nullptr;
  const uint32_t head = *HeadOf(key);
  return head == 0 ? nullptr : RowAt(head - 1, dim);
}

float* Residuals::Generation::Insert(uint64_t key, uint32_t dim) {
  if (2 * (keys_.size() + 1) > heads_.size()) {
    heads_.assign(std::max(kHeadsMin, 2 * heads_.size()), 0);
    for (uint32_t i = 0; i < keys_.size(); ++i) *HeadOf(keys_[i]) = i + 1;
  }
  uint32_t* head = HeadOf(key);
  keys_.push_back(key);
  *head = static_cast<uint32_t>(keys_.size());
  if (blocks_.size() * kBlockRows < keys_.size()) {
    blocks_.push_back(std::make_unique_for_overwrite<float[]>(kBlockRows * dim));
  }
  return RowAt(keys_.size() - 1, dim);
}

void Residuals::Generation::Clear() {
  std::fill(heads_.begin(), heads_.end(), 0u);
  keys_.clear();
}

// ---- all of them --------------------------------------------------------------------------------

float* Residuals::RowOf(uint64_t key) {
  if (float* row = younger_.Find(key, dim_)) return row;
  const float* before = older_.Find(key, dim_);
  if (before != nullptr) {
    ++renewed_;
    moving_.assign(before, before + dim_);
  }
  if (younger_.size() >= generation_max_) Turn();
  float* row = younger_.Insert(key, dim_);
  if (before != nullptr) {
    std::copy(moving_.begin(), moving_.end(), row);
  } else {
    std::fill_n(row, dim_, 0.0f);
  }
  return row;
}

void Residuals::Turn() {
  dropped_ += older_.size() - renewed_;
  renewed_ = 0;
  std::swap(younger_, older_);
  younger_.Clear();
}

void Residuals::Encode(const Kernels& kernels, ValueType type, uint64_t key, float* grad,
                       std::byte* encoded, float* undo) {
  float* residual = RowOf(key);
  float* taken = undo;
  float* lost = undo + dim_;
  for (uint32_t i = 0; i < dim_; ++i) {
    taken[i] = residual[i];
    grad[i] += residual[i];
  }
  if (EncodeRow(kernels, type, grad, dim_, encoded) == RowKind::kNotFinite) {
    std::copy_n(taken, dim_, lost);
    return;
  }
  kernels.decode[static_cast<size_t>(type)](encoded, dim_, lost);
  for (uint32_t i = 0; i < dim_; ++i) {
    // Never -0, which Return could not tell from 0.
    lost[i] = (grad[i] - lost[i]) + 0.0f;
    residual[i] = lost[i];
  }
}

void Residuals::Return(uint64_t key, const float* undo) {
  float* residual = RowOf(key);
  const float* taken = undo;
  const float* lost = undo + dim_;
  // In this order the difference is exactly zero if nothing came between.
  for (uint32_t i = 0; i < dim_; ++i) residual[i] = (residual[i] - lost[i]) + taken[i];
}

void Residuals::Clear() {
  const MutexLock lock(mutex_);
  younger_.Clear();
  older_.Clear();
  renewed_ = 0;
}

Residuals::Kept Residuals::Export() {
  Kept kept;
  const MutexLock lock(mutex_);
  for (Generation* generation : {&older_, &younger_}) {
    for (const uint64_t key : generation->keys()) {
      if (generation == &older_ && younger_.Find(key, dim_) != nullptr) continue;
      const float* row = generation->Find(key, dim_);
      kept.keys.push_back(key);
      kept.rows.insert(kept.rows.end(), row, row + dim_);
    }
    if (generation == &older_) kept.older = kept.keys.size();
  }
  return kept;
}

void Residuals::Import(std::span<const uint64_t> keys, const float* rows, size_t older) {
  Clear();
  const MutexLock lock(mutex_);
  for (size_t k = 0; k < keys.size(); ++k) {
    // The generations part where they did.
    if (k == older) Turn();
    float* row = RowOf(keys[k]);
    for (uint32_t i = 0; i < dim_; ++i) row[i] += rows[k * dim_ + i];
  }
  if (older == keys.size()) Turn();
}

Residuals::Stats Residuals::stats() {
  const MutexLock lock(mutex_);
  return {younger_.size() + older_.size() - renewed_, dropped_};
}

}  // namespace embery
