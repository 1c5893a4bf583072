#include "table/store.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <string>

#include "base/float_environment.h"

namespace embery {
namespace {

// Below this, waking another thread costs more than it saves.
constexpr size_t kKeysPerThreadMin = 4096;
constexpr size_t kKeysPerPiece = 4096;
constexpr size_t kPiecesPerThread = 4;
// A read holds its locks for so many keys: long enough that taking them does not count, short
// enough that a push does not wait.
constexpr size_t kReadKeysMin = 1024;
constexpr size_t kReadKeysMax = 16384;
constexpr size_t kKeysMax = UINT32_MAX;

template <typename Request>
size_t TotalKeys(std::span<const Request> requests) {
  size_t total = 0;
  for (const Request& request : requests) total += request.count;
  return total;
}

// Keeps the first failure of several threads.
class FirstFailure {
 public:
  bool ok() const { return ok_.load(std::memory_order_relaxed); }
  void Note(Status status) {
    if (status.ok()) return;
    MutexLock lock(mutex_);
    if (status_.ok()) status_ = std::move(status);
    // Relaxed: only a hint to stop early; the status itself is read after the threads have joined.
    ok_.store(false, std::memory_order_relaxed);
  }
  Status Take() {
    MutexLock lock(mutex_);
    return status_;
  }

 private:
  std::atomic<bool> ok_{true};
  Mutex mutex_;
  Status status_ GUARDED_BY(mutex_);
};

}  // namespace

Store::Store(int threads, const Kernels& kernels) : kernels_(kernels), pool_(threads) {}

Result<TableId> Store::CreateTable(const TableSpec& spec) {
  MutexLock lock(mutex_);
  for (TableId id = 0; id < tables_.size(); ++id) {
    if (tables_[id]->spec().name != spec.name) continue;
    if (tables_[id]->spec() == spec) return id;
    return Status(StatusCode::kSchemaMismatch,
                  "table '" + spec.name + "' exists with another definition");
  }
  tables_.push_back(std::make_unique<Table>(spec, kernels_));
  return static_cast<TableId>(tables_.size() - 1);
}

Table* Store::FindTable(TableId id) {
  MutexLock lock(mutex_);
  return id < tables_.size() ? tables_[id].get() : nullptr;
}

template <typename Request>
Result<std::vector<Table*>> Store::FindTables(std::span<const Request> requests) {
  std::vector<Table*> tables;
  for (const Request& request : requests) {
    Table* table = FindTable(request.table);
    if (table == nullptr) {
      return Status(StatusCode::kTableNotFound,
                    "no table with id " + std::to_string(request.table));
    }
    if (request.count >= kKeysMax) {
      return Status::InvalidArgument("table '" + table->spec().name + "': a batch has at most " +
                                     std::to_string(kKeysMax - 1) + " keys, got " +
                                     std::to_string(request.count));
    }
    tables.push_back(table);
  }
  return tables;
}

void Store::RunTasks(size_t keys, size_t count, const std::function<void(size_t)>& task) {
  if (keys < 2 * kKeysPerThreadMin) {
    const DefaultFloatEnvironment environment;
    for (size_t i = 0; i < count; ++i) task(i);
    return;
  }
  pool_.Run(count, [&task](size_t i) {
    const DefaultFloatEnvironment environment;
    task(i);
  });
}

template <typename Request>
void Store::PartitionAll(std::span<const Request> requests, const std::vector<Table*>& tables,
                         Batch& batch) {
  if (batch.partitions.size() < requests.size()) batch.partitions.resize(requests.size());
  struct ChunkOf {
    Partition* partition;
    size_t chunk;
  };
  std::vector<ChunkOf> chunks;
  for (size_t r = 0; r < requests.size(); ++r) {
    Partition& partition = batch.partitions[r];
    partition.Reset(tables[r]->spec().salt, requests[r].keys, requests[r].count);
    for (size_t c = 0; c < partition.chunks(); ++c) chunks.push_back({&partition, c});
  }
  const size_t keys = TotalKeys(requests);
  RunTasks(keys, chunks.size(), [&](size_t i) { chunks[i].partition->Mix(chunks[i].chunk); });
  for (size_t r = 0; r < requests.size(); ++r) batch.partitions[r].LayOut();
  RunTasks(keys, chunks.size(), [&](size_t i) { chunks[i].partition->Scatter(chunks[i].chunk); });
}

template <typename Request, typename Work>
Status Store::ForEachGroup(std::span<const Request> requests, const std::vector<Table*>& tables,
                           Work work) {
  const auto batch = batches_.Take();
  PartitionAll(requests, tables, *batch);
  std::vector<Piece> pieces;
  for (size_t r = 0; r < requests.size(); ++r) {
    const size_t wanted = std::clamp<size_t>(requests[r].count / kKeysPerPiece, 1, kGroupCount);
    const auto groups = static_cast<uint32_t>(kGroupCount / std::bit_ceil(wanted));
    for (uint32_t group = 0; group < kGroupCount; group += groups) {
      pieces.push_back({r, group, group + groups});
    }
  }
  FirstFailure failure;
  RunTasks(TotalKeys(requests), pieces.size(), [&](size_t i) {
    const Piece& piece = pieces[i];
    const Partition& partition = batch->partitions[piece.request];
    const auto scratch = scratch_.Take();
    for (uint32_t group = piece.group_begin; group < piece.group_end && failure.ok(); ++group) {
      const GroupBatch share{partition.keys(group), partition.positions(group),
                             partition.count(group)};
      if (share.count > 0) failure.Note(work(piece.request, group, share, *scratch));
    }
  });
  return failure.Take();
}

Store::Missing Store::Read(std::span<const PullRequest> requests, const std::vector<Table*>& tables,
                           PullMode mode, uint32_t now_s) {
  struct Task {
    size_t request;
    size_t begin;
    size_t end;
    std::vector<uint32_t> missing;
  };
  std::vector<Task> tasks;
  const auto threads = static_cast<size_t>(pool_.threads());
  for (size_t r = 0; r < requests.size(); ++r) {
    const size_t count = requests[r].count;
    const size_t step =
        std::clamp(count / (kPiecesPerThread * threads), kReadKeysMin, kReadKeysMax);
    for (size_t begin = 0; begin < count; begin += step) {
      tasks.push_back({r, begin, std::min(count, begin + step), {}});
    }
  }
  RunTasks(TotalKeys(requests), tasks.size(), [&](size_t i) {
    Task& task = tasks[i];
    const PullRequest& request = requests[task.request];
    const auto scratch = read_scratch_.Take();
    ReadRows(*tables[task.request],
             {request.keys, task.begin, task.end, request.out, request.absent}, mode, now_s,
             *scratch);
    task.missing.assign(scratch->missing.begin(), scratch->missing.end());
  });
  Missing missing(requests.size());
  for (const Task& task : tasks) {
    std::vector<uint32_t>& of_request = missing[task.request];
    of_request.insert(of_request.end(), task.missing.begin(), task.missing.end());
  }
  return missing;
}

Status Store::InsertMissing(std::span<const PullRequest> requests,
                            const std::vector<Table*>& tables, const Missing& missing,
                            uint32_t now_s) {
  std::vector<std::vector<uint64_t>> keys(requests.size());
  std::vector<PullRequest> rest;
  std::vector<Table*> rest_tables;
  std::vector<const uint32_t*> positions;
  for (size_t r = 0; r < requests.size(); ++r) {
    if (missing[r].empty()) continue;
    for (const uint32_t position : missing[r]) keys[r].push_back(requests[r].keys[position]);
    rest.push_back({requests[r].table, keys[r].data(), keys[r].size(), requests[r].out, nullptr});
    rest_tables.push_back(tables[r]);
    positions.push_back(missing[r].data());
  }
  return ForEachGroup(
      std::span<const PullRequest>(rest), rest_tables,
      [&](size_t r, uint32_t group, const GroupBatch& share, GroupScratch& scratch) {
        uint32_t* of_batch = scratch.occurrences.Reset(share.count);
        for (size_t i = 0; i < share.count; ++i) of_batch[i] = positions[r][share.positions[i]];
        const Tick tick{rest_tables[r]->step() + 1, now_s};
        return rest_tables[r]->group(group).PullMissing({share.keys, of_batch, share.count}, tick,
                                                        rest[r].out, scratch);
      });
}

Result<size_t> Store::Pull(std::span<const PullRequest> requests, PullMode mode, uint32_t now_s) {
  Result<std::vector<Table*>> found = FindTables(requests);
  if (!found.ok()) return found.status();
  const std::vector<Table*>& tables = found.value();
  if (mode != PullMode::kTrain) {
    Read(requests, tables, mode, now_s);
    return size_t{0};
  }
  ReaderLock gate(gate_);
  const Missing missing = Read(requests, tables, mode, now_s);
  size_t count = 0;
  for (const auto& of_request : missing) count += of_request.size();
  if (count == 0) return count;
  EMBERY_RETURN_IF_ERROR(InsertMissing(requests, tables, missing, now_s));
  for (Table* table : tables) table->Evict({table->step() + 1, now_s}, Table::Effort::kBounded);
  return count;
}

Status Store::CheckFinite(std::span<const PushRequest> requests,
                          const std::vector<Table*>& tables) {
  const auto raises = [](const Table* table) {
    return table->spec().non_finite == NonFinite::kRaise;
  };
  if (std::none_of(tables.begin(), tables.end(), raises)) return Status::Ok();
  for (size_t r = 0; r < requests.size(); ++r) {
    const TableSpec& spec = tables[r]->spec();
    if (!raises(tables[r])) continue;
    const size_t dim = spec.dim;
    for (size_t i = 0; i < requests[r].count; ++i) {
      if (kernels_.all_finite(requests[r].grads + i * dim, dim)) continue;
      return Status::InvalidArgument("push to table '" + spec.name + "': the gradient of key " +
                                     std::to_string(requests[r].keys[i]) + " (position " +
                                     std::to_string(i) + ") is not finite; nothing was applied");
    }
  }
  return ForEachGroup(
      requests, tables,
      [&](size_t r, uint32_t group, const GroupBatch& share, GroupScratch& scratch) {
        return raises(tables[r])
                   ? tables[r]->group(group).CheckSums(share, requests[r].grads, scratch)
                   : Status::Ok();
      });
}

Status Store::Push(std::span<const PushRequest> requests, uint32_t now_s, PushStep step) {
  Result<std::vector<Table*>> found = FindTables(requests);
  if (!found.ok()) return found.status();
  const std::vector<Table*>& tables = found.value();
  for (size_t r = 1; r < tables.size(); ++r) {
    if (std::find(tables.begin(), tables.begin() + static_cast<ptrdiff_t>(r), tables[r]) ==
        tables.begin() + static_cast<ptrdiff_t>(r)) {
      continue;
    }
    return Status::InvalidArgument("push names table '" + tables[r]->spec().name +
                                   "' twice; join its keys in one request");
  }
  EMBERY_RETURN_IF_ERROR(CheckFinite(requests, tables));
  ReaderLock gate(gate_);
  std::vector<Tick> ticks;
  for (Table* table : tables) {
    ticks.push_back({step == PushStep::kNext ? table->NextStep() : table->step(), now_s});
  }
  EMBERY_RETURN_IF_ERROR(ForEachGroup(
      requests, tables,
      [&](size_t r, uint32_t group, const GroupBatch& share, GroupScratch& scratch) {
        return tables[r]->group(group).Push(share, ticks[r], requests[r].grads, scratch);
      }));
  for (size_t r = 0; r < tables.size(); ++r) tables[r]->Evict(ticks[r], Table::Effort::kBounded);
  return Status::Ok();
}

Status Store::BeginCut(size_t bytes_max) {
  const WriterLock gate(gate_);
  const MutexLock lock(mutex_);
  if (cut_memory_ != nullptr) {
    return Status::Unavailable("the tables are being saved already; wait until that is done");
  }
  cut_memory_ = std::make_unique<CutMemory>(bytes_max);
  for (const auto& table : tables_) table->BeginCut(*cut_memory_);
  return Status::Ok();
}

void Store::EndCut() {
  const MutexLock lock(mutex_);
  for (const auto& table : tables_) table->EndCut();
  cut_memory_.reset();
}

size_t Store::Evict(Table& table, uint32_t now_s) {
  ReaderLock gate(gate_);
  return table.Evict({table.step() + 1, now_s}, Table::Effort::kThorough);
}

}  // namespace embery
