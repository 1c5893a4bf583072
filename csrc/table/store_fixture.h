// A store with one table, with vectors in place of pointers: what the tests of the store share.
//
// Thread-safety: as the store's. Ownership: owns the store.
#pragma once

#include <span>
#include <vector>

#include "base/testing.h"
#include "table/store.h"

#if defined(__SANITIZE_THREAD__)
// A read takes the locks of up to 64 groups, in ascending order. ThreadSanitizer's detector of
// deadlocks, unlike that of races, gives up at so many.
extern "C" [[gnu::used, gnu::visibility("default")]] inline const char* __tsan_default_options() {
  return "detect_deadlocks=0";
}
#endif

namespace embery {

using Keys = std::vector<uint64_t>;
using Values = std::vector<float>;

// A table of SGD steps of size 1 on rows of zeros: integer gradients are exact.
inline TableSpec PlainSpec(uint32_t dim) {
  TableSpec spec;
  spec.name = "t";
  spec.salt = 0x9ae16a3b2f90404f;
  spec.dim = dim;
  spec.optimizer = {.kind = OptimizerKind::kSgd, .lr = 1.0f};
  return spec;
}

// A row with its own copies of values and state.
struct SavedRow {
  uint64_t key;
  Lsn lsn;
  uint32_t updates;
  uint32_t step;
  uint32_t time_s;
  std::vector<std::byte> values;
  std::vector<float> state;

  friend bool operator==(const SavedRow&, const SavedRow&) = default;
};

inline SavedRow Saved(const RowView& row, const RecordLayout& layout) {
  return {row.key,
          row.lsn,
          row.updates,
          row.step,
          row.time_s,
          {row.values, row.values + layout.value_bytes},
          {row.state, row.state + layout.state_floats}};
}

class StoreFixture {
 public:
  explicit StoreFixture(const TableSpec& spec, int threads = 1, const char* simd = "auto")
      : store_(threads, *FindKernels(simd).value()),
        id_(store_.CreateTable(spec).value()),
        table_(*store_.FindTable(id_)) {}

  Store& store() { return store_; }
  Table& table() { return table_; }
  TableId id() const { return id_; }
  uint32_t dim() const { return table_.spec().dim; }
  void set_now_s(uint32_t now_s) { now_s_ = now_s; }
  uint32_t now_s() const { return now_s_; }

  Values Pull(const Keys& keys, PullMode mode = PullMode::kTrain) {
    Values out(keys.size() * dim());
    const PullRequest request{id_, keys.data(), keys.size(), RowsOut(out.data()), nullptr};
    CHECK_TRUE(store_.Pull({&request, 1}, mode, now_s_).ok());
    return out;
  }

  // Leaves `out` as it is where a key is absent; returns which are.
  std::vector<uint8_t> Peek(const Keys& keys, Values& out) {
    std::vector<uint8_t> absent(keys.size());
    const PullRequest request{id_, keys.data(), keys.size(), RowsOut(out.data()), absent.data()};
    CHECK_TRUE(store_.Pull({&request, 1}, PullMode::kPeek, now_s_).ok());
    return absent;
  }

  Status TryPush(const Keys& keys, const Values& grads) {
    const PushRequest request{id_, keys.data(), keys.size(), grads.data()};
    return store_.Push({&request, 1}, now_s_);
  }
  void Push(const Keys& keys, const Values& grads) { CHECK_TRUE(TryPush(keys, grads).ok()); }

  Table::Stats stats() { return table_.stats(); }

  // All rows, in the order of slots; within one, of mixed keys.
  std::vector<SavedRow> Rows() {
    const RecordLayout& layout = table_.layout();
    std::vector<SavedRow> rows;
    for (uint32_t group = 0; group < kGroupCount; ++group) {
      table_.group(group).VisitSlots(
          0, kSlotCount, [&](const RowView& row) { rows.push_back(Saved(row, layout)); });
    }
    return rows;
  }

  std::vector<SlotGroup::State> States() {
    std::vector<SlotGroup::State> states;
    for (uint32_t i = 0; i < kGroupCount; ++i) states.push_back(table_.group(i).ExportState());
    return states;
  }

  void Restore(std::span<const SavedRow> rows, std::span<const SlotGroup::State> states,
               uint32_t step) {
    table_.Clear();
    const auto mixed = [this](const SavedRow& row) { return MixKey(table_.spec().salt, row.key); };
    size_t rows_of[kGroupCount] = {};
    for (const SavedRow& row : rows) ++rows_of[GroupOf(mixed(row))];
    for (uint32_t i = 0; i < kGroupCount; ++i) {
      CHECK_TRUE(table_.group(i).ReserveRows(rows_of[i]).ok());
    }
    for (const SavedRow& row : rows) {
      CHECK_TRUE(table_.group(GroupOf(mixed(row)))
                     .Import({row.key, SlotOf(mixed(row)), row.lsn, row.updates, row.step,
                              row.time_s, row.values.data(), row.state.data()})
                     .ok());
    }
    for (uint32_t i = 0; i < kGroupCount; ++i) table_.group(i).ImportState(states[i]);
    table_.set_step(step);
  }

 private:
  Store store_;
  TableId id_;
  Table& table_;
  uint32_t now_s_ = 1000;
};

}  // namespace embery
