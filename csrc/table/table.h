// A table: 64 slot groups under one definition.
//
// Thread-safety: all methods may be called from any thread. Ownership: owns its groups and their
// memory. Invariant: the step counts the pushes to the table; a pull prepares the step after it.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/mutex.h"
#include "table/group.h"

namespace embery {

class Table {
 public:
  Table(const TableSpec& spec, const Kernels& kernels);

  const TableSpec& spec() const { return context_.spec; }
  const RecordLayout& layout() const { return context_.layout; }
  const Kernels& kernels() const { return context_.kernels; }
  SlotGroup& group(uint32_t number) { return *groups_[number]; }
  // Holds copies of slots whose rows are elsewhere: nothing else of the table touches it.
  SlotGroup& copies(uint32_t number) EXCLUDES(copies_mutex_);
  const std::byte* RecordAt(Handle handle) const { return context_.slabs.At(handle); }

  // Relaxed throughout: steps and counts order nothing; the groups' locks do.
  uint32_t step() const { return step_.load(std::memory_order_relaxed); }
  // Begins a push: returns its step, 1 for the first.
  uint32_t NextStep() { return step_.fetch_add(1, std::memory_order_relaxed) + 1; }
  // Counts at least as many as another server did.
  void RaiseStep(uint32_t to) {
    uint32_t step = step_.load(std::memory_order_relaxed);
    // A failed exchange loads the present value; as above, nothing is ordered by it.
    while (step < to && !step_.compare_exchange_weak(step, to, std::memory_order_relaxed)) {
    }
  }
  void set_step(uint32_t step) { step_.store(step, std::memory_order_relaxed); }

  // Applies the eviction policy; `step` is the one under way. Returns the number of rows evicted.
  // `thorough` looks at all rows; otherwise a bounded number are looked at.
  enum class Effort : uint8_t { kBounded, kThorough };
  size_t Evict(Tick tick, Effort effort) EXCLUDES(eviction_mutex_);

  struct Stats {
    Counters counters;
    uint64_t rows = 0;
    uint64_t bytes = 0;
    uint64_t candidates = 0;
    uint64_t candidates_forgotten = 0;
    uint64_t tombstones = 0;
    uint64_t tombstones_lost = 0;
  };
  Stats stats();
  void Clear();

  // See SlotGroup. `cut_step` is the step at the cut.
  void BeginCut(CutMemory& memory);
  void EndCut();
  uint32_t cut_step() const { return cut_step_.load(std::memory_order_relaxed); }

 private:
  size_t EvictBeyond(uint64_t rows_max, uint32_t step) REQUIRES(eviction_mutex_);
  size_t EvictExpired(uint32_t now_s, Effort effort) REQUIRES(eviction_mutex_);
  uint64_t rows();

  TableContext context_;
  std::vector<std::unique_ptr<SlotGroup>> groups_;
  Mutex copies_mutex_;
  std::vector<std::unique_ptr<SlotGroup>> copies_ GUARDED_BY(copies_mutex_);  // Empty, or all.
  std::atomic<uint32_t> step_{0};
  std::atomic<uint32_t> cut_step_{0};
  Mutex eviction_mutex_;
  uint32_t next_swept_group_ GUARDED_BY(eviction_mutex_) = 0;
  uint32_t swept_s_[kGroupCount] GUARDED_BY(eviction_mutex_) = {};
};

}  // namespace embery
