#include "client/shards.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "base/occurrences.h"
#include "base/prefetch.h"

namespace embery {
namespace {

constexpr size_t kRowsAhead = 8;
// Of one task: enough to be worth a system call for what is ready, and another thread.
constexpr size_t kRowsPerTask = 1024;

size_t TaskCount(size_t rows) { return (rows + kRowsPerTask - 1) / kRowsPerTask; }

}  // namespace

void Shards::FindDistinct(const TableKeys& keys, Repeats repeats, Table& table) {
  table.salt = keys.salt;
  table.dim = keys.dim;
  table.count = keys.keys.size();
  std::copy(keys.keys.begin(), keys.keys.end(), table.keys.Reset(table.count));
  table.distinct.clear();
  RowIndex* which = table.which.Reset(table.count);
  if (repeats == Repeats::kKeep) {
    table.distinct.assign(keys.keys.begin(), keys.keys.end());
    std::iota(which, which + table.count, RowIndex{0});
    return;
  }
  table.finder.Begin(table.count);
  table.finder.Add(keys.keys, table.distinct, which);
}

void Shards::ShareOut(const TableKeys& keys, const ClientRouting& routing, Table& table) {
  Place* places = table.places.Reset(table.distinct.size());
  table.first_float.clear();
  table.first_key.clear();
  for (Shard& shard : shards_) {
    table.first_float.push_back(shard.floats);
    table.first_key.push_back(shard.keys.size());
  }
  if (shards_.size() == 1) {
    for (uint32_t i = 0; i < table.distinct.size(); ++i) places[i] = {0, i};
    shards_[0].keys.insert(shards_[0].keys.end(), table.distinct.begin(), table.distinct.end());
  } else {
    for (size_t i = 0; i < table.distinct.size(); ++i) {
      const uint64_t key = table.distinct[i];
      const uint32_t shard = routing.shard_of_slot[SlotOf(MixKey(keys.salt, key))];
      std::vector<uint64_t>& of_shard = shards_[shard].keys;
      places[i] = {shard, static_cast<uint32_t>(of_shard.size() - table.first_key[shard])};
      of_shard.push_back(key);
    }
  }
  for (size_t s = 0; s < shards_.size(); ++s) {
    const size_t count = shards_[s].keys.size() - table.first_key[s];
    shards_[s].sections.push_back({keys.salt, keys.dim, static_cast<uint32_t>(count)});
    shards_[s].floats += uint64_t{count} * keys.dim;
  }
}

bool Shards::HasKeys(std::span<const TableKeys> tables) const {
  if (tables.size() != tables_.size()) return false;
  for (size_t t = 0; t < tables.size(); ++t) {
    const Table& table = tables_[t];
    if (table.salt != tables[t].salt || table.dim != tables[t].dim ||
        !std::equal(tables[t].keys.begin(), tables[t].keys.end(), table.keys.data(),
                    table.keys.data() + table.count)) {
      return false;
    }
  }
  return true;
}

void Shards::Plan(std::span<const TableKeys> tables, std::shared_ptr<const ClientRouting> routing,
                  Repeats repeats, ThreadPool& pool) {
  if (routing == routing_ && repeats == repeats_ && HasKeys(tables)) return;
  routing_ = std::move(routing);
  repeats_ = repeats;
  shards_.resize(routing_->servers.size());
  for (Shard& shard : shards_) {
    shard.sections.clear();
    shard.keys.clear();
    shard.floats = 0;
  }
  tables_.resize(tables.size());
  pool.Run(tables.size(), [&](size_t t) { FindDistinct(tables[t], repeats, tables_[t]); });
  for (size_t t = 0; t < tables.size(); ++t) ShareOut(tables[t], *routing_, tables_[t]);
}

std::span<const uint32_t> Shards::GroupOccurrences(const Table& table) {
  const std::span<uint32_t> ends(ends_.Reset(table.distinct.size()), table.distinct.size());
  uint32_t* occurrences = occurrences_.Reset(table.count);
  std::fill(ends.begin(), ends.end(), 0u);
  for (size_t i = 0; i < table.count; ++i) ++ends[table.which[i]];
  GroupPositions(
      {table.which.data(), table.count}, [](size_t i) { return static_cast<uint32_t>(i); }, ends,
      occurrences);
  return ends;
}

void Shards::SumGradients(const Kernels& kernels, const Table& table,
                          std::span<const uint32_t> ends, const float* grads,
                          std::span<float* const> to, size_t begin, size_t end) const {
  const size_t dim = table.dim;
  const uint32_t* occurrences = occurrences_.data();
  size_t first = begin == 0 ? 0 : ends[begin - 1];
  size_t ahead = first;
  for (size_t d = begin; d < end; ++d) {
    for (; ahead < std::min<size_t>(table.count, ends[d] + kRowsAhead); ++ahead) {
      PrefetchBytes(grads + occurrences[ahead] * dim, dim * sizeof(float));
    }
    const Place place = table.places[d];
    kernels.sum_rows(grads, occurrences + first, ends[d] - first, table.dim,
                     to[place.shard] + table.first_float[place.shard] + place.row * dim);
    first = ends[d];
  }
}

void Shards::GatherGradients(const Kernels& kernels, std::span<const float* const> grads,
                             std::span<float* const> to, const Progressed& progressed,
                             ThreadPool& pool) {
  std::vector<uint64_t> floats(shards_.size());
  const size_t wave = kRowsPerTask * static_cast<size_t>(pool.threads());
  for (size_t t = 0; t < tables_.size(); ++t) {
    const Table& table = tables_[t];
    const std::span<const uint32_t> ends = GroupOccurrences(table);
    for (size_t begin = 0; begin < ends.size(); begin += wave) {
      const size_t end = std::min(ends.size(), begin + wave);
      pool.Run(TaskCount(end - begin), [&](size_t task) {
        const size_t first = begin + task * kRowsPerTask;
        SumGradients(kernels, table, ends, grads[t], to, first,
                     std::min(end, first + kRowsPerTask));
      });
      for (size_t d = begin; d < end; ++d) {
        const Place place = table.places[d];
        floats[place.shard] = table.first_float[place.shard] + (size_t{place.row} + 1) * table.dim;
      }
      progressed(floats);
    }
  }
  for (size_t s = 0; s < shards_.size(); ++s) floats[s] = shards_[s].floats;
  progressed(floats);
}

size_t Shards::CopyRows(const Scatter& scatter, const Table& table, float* out, size_t begin,
                        size_t end) {
  const size_t dim = table.dim;
  for (size_t i = begin; i < end; ++i) {
    const Place place = table.places[table.which[i]];
    if (scatter.skipped[place.shard]) continue;
    const float* rows = scatter.rows[place.shard];
    const uint64_t at = table.first_float[place.shard] + place.row * dim;
    if (rows == nullptr || at + dim > scatter.floats[place.shard]) return i;
    if (i + kRowsAhead < end) {
      const Place next = table.places[table.which[i + kRowsAhead]];
      if (scatter.rows[next.shard] != nullptr) {
        PrefetchBytes(scatter.rows[next.shard] + table.first_float[next.shard] + next.row * dim,
                      dim * sizeof(float));
      }
    }
    std::memcpy(out + i * dim, rows + at, dim * sizeof(float));
  }
  return end;
}

bool Shards::HasAllRows(const Scatter& scatter) const {
  for (size_t s = 0; s < shards_.size(); ++s) {
    const bool is_whole = scatter.rows[s] != nullptr && scatter.floats[s] == shards_[s].floats;
    if (!is_whole && !scatter.skipped[s] && shards_[s].floats > 0) return false;
  }
  return true;
}

void Shards::ScatterRows(Scatter& scatter, ThreadPool& pool) const {
  const bool has_all = HasAllRows(scatter);
  for (; scatter.table < tables_.size(); ++scatter.table, scatter.key = 0) {
    const Table& table = tables_[scatter.table];
    float* out = scatter.out[scatter.table];
    if (!has_all) {
      scatter.key = CopyRows(scatter, table, out, scatter.key, table.count);
      if (scatter.key < table.count) return;
      continue;
    }
    const size_t begin = scatter.key;
    pool.Run(TaskCount(table.count - begin), [&](size_t task) {
      const size_t first = begin + task * kRowsPerTask;
      CopyRows(scatter, table, out, first, std::min(table.count, first + kRowsPerTask));
    });
  }
}

void Shards::ScatterFlags(std::span<const uint8_t* const> flags,
                          std::span<uint8_t* const> out) const {
  for (size_t t = 0; t < tables_.size(); ++t) {
    const Table& table = tables_[t];
    for (size_t i = 0; i < table.count; ++i) {
      const Place place = table.places[table.which[i]];
      const uint8_t* of_shard = flags[place.shard];
      out[t][i] = of_shard == nullptr ? 0 : of_shard[table.first_key[place.shard] + place.row];
    }
  }
}

size_t Shards::MarkRefused(const std::vector<bool>& refused, std::span<uint8_t* const> out) const {
  size_t marked = 0;
  for (size_t t = 0; t < tables_.size(); ++t) {
    const Table& table = tables_[t];
    for (size_t i = 0; i < table.count; ++i) {
      const bool is_refused = refused[table.places[table.which[i]].shard];
      marked += is_refused ? 1 : 0;
      if (!out.empty()) out[t][i] = is_refused ? 1 : 0;
    }
  }
  return marked;
}

}  // namespace embery
