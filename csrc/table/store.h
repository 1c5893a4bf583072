// The tables of one process, and the batches that are pulled from and pushed to them.
//
// A call may name several tables; its work is shared out over the store's threads by slot group, so
// that a group's part of a batch is handled by one thread, in order. Hence the same bits whatever
// the number of threads.
//
// Thread-safety: all methods may be called from any thread. Ownership: owns its tables for its
// whole life; the arrays of a call are the caller's and must stay as they are until it returns.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/mutex.h"
#include "base/recycler.h"
#include "base/status.h"
#include "base/thread_pool.h"
#include "optim/row_codec.h"
#include "table/partition.h"
#include "table/read.h"
#include "table/table.h"

namespace embery {

using TableId = uint32_t;

struct PullRequest {
  TableId table;
  const uint64_t* keys;
  size_t count;
  RowsOut out;      // count rows.
  uint8_t* absent;  // count; for PullMode::kPeek, must be zero. Else null.
};

struct PushRequest {
  TableId table;
  const uint64_t* keys;
  size_t count;
  const float* grads;  // count x dim.
};

// Whether a push begins a step of its tables or belongs to the present one, of which a part was
// applied before.
enum class PushStep : uint8_t { kNext, kPresent };

class Store {
 public:
  Store(int threads, const Kernels& kernels);

  int threads() const { return pool_.threads(); }
  const Kernels& kernels() const { return kernels_; }

  // Returns the id of the new table, or of the equal one of that name; kSchemaMismatch if the table
  // of that name differs.
  Result<TableId> CreateTable(const TableSpec& spec) EXCLUDES(mutex_);
  // Null if there is no such table.
  Table* FindTable(TableId id) EXCLUDES(mutex_);

  // Blocks until done; returns for how many keys of a training pull there was no row: it inserted
  // some, or noted that they were seen. On failure nothing was changed, unless memory ran out: then
  // what was inserted stays, with its first values.
  Result<size_t> Pull(std::span<const PullRequest> requests, PullMode mode, uint32_t now_s)
      EXCLUDES(gate_);

  // Blocks until applied. On an invalid argument nothing was changed; if memory ran out some keys
  // were updated. A table is named once at the most.
  Status Push(std::span<const PushRequest> requests, uint32_t now_s,
              PushStep step = PushStep::kNext) EXCLUDES(gate_);

  // Applies the table's eviction policy to all its rows; returns the number of rows evicted.
  size_t Evict(Table& table, uint32_t now_s) EXCLUDES(gate_);

  // Between Freeze and Thaw, by one thread, no row comes, changes or goes; training pulls and
  // pushes wait. Freeze blocks until those under way are done.
  void Freeze() ACQUIRE(gate_) { gate_.Lock(); }
  void Thaw() RELEASE(gate_) { gate_.Unlock(); }

  // From here to EndCut the tables there are can be read as they are now (SlotGroup::VisitCut),
  // while they change; at most `bytes_max` of what they were are kept for that. Blocks until calls
  // under way are done. kUnavailable if there is a cut already.
  Status BeginCut(size_t bytes_max) EXCLUDES(gate_, mutex_);
  void EndCut() EXCLUDES(mutex_);

 private:
  // Partitions of the requests of one call.
  struct Batch {
    std::vector<Partition> partitions;
  };
  // Groups [begin, end) of one request: what one thread takes at a time.
  struct Piece {
    size_t request;
    uint32_t group_begin;
    uint32_t group_end;
  };
  template <typename Request>
  Result<std::vector<Table*>> FindTables(std::span<const Request> requests) EXCLUDES(mutex_);
  template <typename Request>
  void PartitionAll(std::span<const Request> requests, const std::vector<Table*>& tables,
                    Batch& batch);
  // Calls work(request, group, its share, scratch) for all groups with keys; the first failure
  // wins.
  template <typename Request, typename Work>
  Status ForEachGroup(std::span<const Request> requests, const std::vector<Table*>& tables,
                      Work work);
  // Positions of the keys of each request that have no row, in order; empty unless kTrain.
  using Missing = std::vector<std::vector<uint32_t>>;
  Missing Read(std::span<const PullRequest> requests, const std::vector<Table*>& tables,
               PullMode mode, uint32_t now_s);
  Status InsertMissing(std::span<const PullRequest> requests, const std::vector<Table*>& tables,
                       const Missing& missing, uint32_t now_s);
  Status CheckFinite(std::span<const PushRequest> requests, const std::vector<Table*>& tables);
  void RunTasks(size_t keys, size_t count, const std::function<void(size_t)>& task);

  const Kernels& kernels_;
  ThreadPool pool_;
  SharedMutex gate_;  // Held shared by whatever changes rows.
  Mutex mutex_;
  // Before the tables, whose cuts give back to it when they end.
  std::unique_ptr<CutMemory> cut_memory_ GUARDED_BY(mutex_);
  std::vector<std::unique_ptr<Table>> tables_ GUARDED_BY(mutex_);
  Recycler<Batch> batches_;
  Recycler<GroupScratch> scratch_;
  Recycler<ReadScratch> read_scratch_;
};

}  // namespace embery
