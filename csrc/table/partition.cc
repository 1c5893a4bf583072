#include "table/partition.h"

#include <algorithm>
#include <utility>

namespace embery {
namespace {

constexpr size_t kChunkKeys = 16384;

}  // namespace

void Partition::Reset(uint64_t salt, const uint64_t* keys, size_t count) {
  salt_ = salt;
  keys_ = keys;
  chunks_ = (count + kChunkKeys - 1) / kChunkKeys;
  if (chunk_.size() < chunks_) chunk_.resize(chunks_);
  for (size_t c = 0; c < chunks_; ++c) {
    chunk_[c].begin = c * kChunkKeys;
    chunk_[c].end = std::min(count, (c + 1) * kChunkKeys);
  }
  mixed_.Reset(count);
  sorted_.Reset(count);
  positions_.Reset(count);
}

void Partition::Mix(size_t chunk_number) {
  Chunk& chunk = chunk_[chunk_number];
  size_t counts[kGroupCount] = {};
  for (size_t i = chunk.begin; i < chunk.end; ++i) {
    mixed_[i] = MixKey(salt_, keys_[i]);
    ++counts[GroupOf(mixed_[i])];
  }
  std::copy(counts, counts + kGroupCount, chunk.next);
}

void Partition::LayOut() {
  size_t at = 0;
  for (uint32_t group = 0; group < kGroupCount; ++group) {
    starts_[group] = at;
    for (size_t c = 0; c < chunks_; ++c) at += std::exchange(chunk_[c].next[group], at);
  }
  starts_[kGroupCount] = at;
}

void Partition::Scatter(size_t chunk_number) {
  Chunk& chunk = chunk_[chunk_number];
  for (size_t i = chunk.begin; i < chunk.end; ++i) {
    const size_t at = chunk.next[GroupOf(mixed_[i])]++;
    sorted_[at] = mixed_[i];
    positions_[at] = static_cast<uint32_t>(i);
  }
}

}  // namespace embery
