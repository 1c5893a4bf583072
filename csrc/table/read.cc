#include "table/read.h"

#include <algorithm>
#include <bit>

#include "table/pipeline.h"

namespace embery {
namespace {

constexpr size_t kBlock = 32;  // Rows that are copied out together.

// The shared locks of the groups whose bits are set. Taken in ascending order: see SharedMutex.
class GroupsReaderLock {
 public:
  GroupsReaderLock(Table& table, uint64_t groups) NO_THREAD_SAFETY_ANALYSIS : table_(table),
                                                                              groups_(groups) {
    for (uint64_t rest = groups_; rest != 0; rest &= rest - 1) {
      table_.group(static_cast<uint32_t>(std::countr_zero(rest))).mutex().LockShared();
    }
  }
  ~GroupsReaderLock() NO_THREAD_SAFETY_ANALYSIS {
    for (uint64_t rest = groups_; rest != 0; rest &= rest - 1) {
      table_.group(static_cast<uint32_t>(std::countr_zero(rest))).mutex().UnlockShared();
    }
  }
  GroupsReaderLock(const GroupsReaderLock&) = delete;
  GroupsReaderLock& operator=(const GroupsReaderLock&) = delete;

 private:
  Table& table_;
  const uint64_t groups_;
};

// Rows on their way out, copied a block at a time.
class RowWriter {
 public:
  RowWriter(const Table& table, float* out)
      : gather_(table.kernels().gather[static_cast<size_t>(table.spec().value_type)]),
        dim_(table.spec().dim),
        out_(out) {}

  // Null values are written as zeros.
  void Add(const std::byte* values, size_t position) {
    rows_[filled_] = values;
    positions_[filled_++] = static_cast<uint32_t>(position);
    if (filled_ == kBlock) Flush();
  }
  void Flush() {
    gather_({rows_, positions_, filled_, dim_, out_});
    filled_ = 0;
  }

 private:
  const Kernels::GatherFn gather_;
  const uint32_t dim_;
  float* const out_;
  const std::byte* rows_[kBlock];
  uint32_t positions_[kBlock];
  size_t filled_ = 0;
};

}  // namespace

void ReadRows(Table& table, const ReadRange& range, PullMode mode, uint32_t now_s,
              ReadScratch& scratch) NO_THREAD_SAFETY_ANALYSIS {
  const size_t count = range.end - range.begin;
  MixedKey* mixed = scratch.mixed.Reset(count);
  uint64_t groups = 0;
  for (size_t i = 0; i < count; ++i) {
    mixed[i] = MixKey(table.spec().salt, range.keys[range.begin + i]);
    groups |= uint64_t{1} << GroupOf(mixed[i]);
  }
  scratch.missing.clear();
  RowWriter writer(table, range.out);
  const GroupsReaderLock lock(table, groups);

  // Twice as many: the record of a later key is fetched before that of an earlier one is used.
  Handle guesses[2 * kAhead];
  const auto group_of = [&](size_t i) -> SlotGroup& { return table.group(GroupOf(mixed[i])); };
  RunPipeline(
      count, [&](size_t i) NO_THREAD_SAFETY_ANALYSIS { group_of(i).PrefetchBucket(mixed[i]); },
      [&](size_t i) NO_THREAD_SAFETY_ANALYSIS { group_of(i).PrefetchOverflow(mixed[i]); },
      [&](size_t i) NO_THREAD_SAFETY_ANALYSIS {
        guesses[i % (2 * kAhead)] = group_of(i).GuessAndPrefetch(mixed[i]);
      },
      [&](size_t i) NO_THREAD_SAFETY_ANALYSIS {
        const size_t position = range.begin + i;
        const Handle guess = guesses[i % (2 * kAhead)];
        const std::byte* values = group_of(i).ValuesOf(mixed[i], guess, now_s);
        if (values != nullptr || mode == PullMode::kEval) {
          writer.Add(values, position);
        } else if (mode == PullMode::kPeek) {
          range.absent[position] = 1;
        } else {
          scratch.missing.push_back(static_cast<uint32_t>(position));
        }
      });
  writer.Flush();
}

}  // namespace embery
