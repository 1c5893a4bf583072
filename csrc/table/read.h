// Reading rows of a table, in the order of a batch.
//
// Thread-safety: takes the shared locks of the groups it reads, in ascending order. Ownership:
// borrows its arguments for the call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/buffer.h"
#include "optim/row_codec.h"
#include "table/table.h"

namespace embery {

enum class PullMode : uint8_t { kTrain, kEval, kPeek };

// Keys [begin, end) of a batch; `out` and `absent` are those of the whole batch.
struct ReadRange {
  const uint64_t* keys;
  size_t begin;
  size_t end;
  RowsOut out;
  uint8_t* absent;
};

struct ReadScratch {
  Buffer<MixedKey> mixed;
  Buffer<float> values;
  std::vector<uint32_t> missing;  // Result of kTrain: positions of the keys that have no row.
};

// Writes the rows of the range's keys. Where there is no row, kEval writes zeros, kPeek sets
// `absent` to 1, and kTrain appends the position to scratch.missing, which it clears first.
void ReadRows(Table& table, const ReadRange& range, PullMode mode, uint32_t now_s,
              ReadScratch& scratch);

}  // namespace embery
