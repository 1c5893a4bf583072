#include "table/read.h"

#include <bit>

#include "table/lookup.h"

namespace embery {
namespace {

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
  const GroupsReaderLock lock(table, groups);

  const auto group_of = [&](size_t i) -> SlotGroup& { return table.group(GroupOf(mixed[i])); };
  const uint32_t dim = table.spec().dim;
  const RowWriter rows(table.kernels(), table.spec().value_type, dim, range.out);
  float* values = scratch.values.Reset(dim);
  const size_t fetched_bytes = table.layout().state_offset;
  LookUpMany(
      count,
      [&](size_t i) NO_THREAD_SAFETY_ANALYSIS -> const Index& { return group_of(i).index(); },
      [&](size_t i) { return TagOf(mixed[i]); },
      [&](size_t, Handle guess) { PrefetchBytes(table.RecordAt(guess), fetched_bytes); },
      [&](size_t i, Handle guess) NO_THREAD_SAFETY_ANALYSIS {
        const size_t position = range.begin + i;
        const std::byte* stored = group_of(i).ValuesOf(mixed[i], guess, now_s);
        if (stored != nullptr) {
          rows.Write(position, stored, values);
        } else if (mode == PullMode::kEval) {
          rows.WriteZeros(position);
        } else if (mode == PullMode::kPeek) {
          range.absent[position] = 1;
        } else {
          scratch.missing.push_back(static_cast<uint32_t>(position));
        }
      });
}

}  // namespace embery
