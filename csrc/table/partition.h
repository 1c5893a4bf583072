// A batch of keys, mixed and sorted by slot group; within a group the order of the batch stays.
//
// The work is cut into chunks that different threads may take: Mix all chunks, then Lay out once,
// then Scatter all chunks.
//
// Thread-safety: different chunks from different threads, each step after the one before it.
// Ownership: reads the caller's keys until Scatter is done; the results live until the next Reset.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/buffer.h"
#include "base/hash.h"

namespace embery {

class Partition {
 public:
  // Requires count < 2^32.
  void Reset(uint64_t salt, const uint64_t* keys, size_t count);

  size_t chunks() const { return chunks_; }
  void Mix(size_t chunk);
  void LayOut();
  void Scatter(size_t chunk);

  const MixedKey* keys(uint32_t group) const { return sorted_.data() + starts_[group]; }
  const uint32_t* positions(uint32_t group) const { return positions_.data() + starts_[group]; }
  size_t count(uint32_t group) const { return starts_[group + 1] - starts_[group]; }

 private:
  struct Chunk {
    size_t begin;
    size_t end;
    size_t next[kGroupCount];  // First a count a group, then where its next key goes.
  };

  uint64_t salt_ = 0;
  const uint64_t* keys_ = nullptr;
  size_t chunks_ = 0;
  std::vector<Chunk> chunk_;
  Buffer<MixedKey> mixed_;
  Buffer<MixedKey> sorted_;
  Buffer<uint32_t> positions_;
  size_t starts_[kGroupCount + 1] = {};
};

}  // namespace embery
