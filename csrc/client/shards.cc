#include "client/shards.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <utility>

#include "base/float_environment.h"
#include "base/occurrences.h"
#include "base/prefetch.h"
#include "optim/row_codec.h"

namespace embery {
namespace {

constexpr size_t kRowsAhead = 8;
// Of one task: enough to be worth another thread.
constexpr size_t kRowsPerTask = 1024;
// Of a thread, between two reports of progress: a thread that wakes late still finds work.
constexpr size_t kTasksPerWave = 6;

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
  table.first_key.clear();
  for (const Shard& shard : shards_) table.first_key.push_back(shard.keys.size());
  if (shards_.size() == 1) {
    for (uint32_t i = 0; i < table.distinct.size(); ++i) places[i] = {0, i};
    shards_[0].keys.insert(shards_[0].keys.end(), table.distinct.begin(), table.distinct.end());
    return;
  }
  for (size_t i = 0; i < table.distinct.size(); ++i) {
    const uint64_t key = table.distinct[i];
    const uint32_t shard = routing.shard_of_slot[SlotOf(MixKey(keys.salt, key))];
    std::vector<uint64_t>& of_shard = shards_[shard].keys;
    places[i] = {shard, static_cast<uint32_t>(of_shard.size() - table.first_key[shard])};
    of_shard.push_back(key);
  }
}

void Shards::LayOut(std::span<const TableKeys> tables) {
  for (Shard& shard : shards_) {
    shard.sections.clear();
    shard.value_bytes = 0;
    shard.float_count = 0;
  }
  for (size_t t = 0; t < tables_.size(); ++t) {
    Table& table = tables_[t];
    table.encoding = tables[t].encoding;
    table.row_bytes = ValueBytes(table.encoding, table.dim);
    table.first_byte.clear();
    for (size_t s = 0; s < shards_.size(); ++s) {
      Shard& shard = shards_[s];
      const size_t end = t + 1 < tables_.size() ? tables_[t + 1].first_key[s] : shard.keys.size();
      const auto count = static_cast<uint32_t>(end - table.first_key[s]);
      table.first_byte.push_back(shard.value_bytes);
      shard.sections.push_back({table.salt, table.dim, count, table.encoding});
      shard.value_bytes += shard.sections.back().value_bytes();
      shard.float_count += shard.sections.back().float_count();
    }
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
  if (routing != routing_ || repeats != repeats_ || !HasKeys(tables)) {
    routing_ = std::move(routing);
    repeats_ = repeats;
    shards_.resize(routing_->servers.size());
    for (Shard& shard : shards_) shard.keys.clear();
    tables_.resize(tables.size());
    pool.Run(tables.size(), [&](size_t t) { FindDistinct(tables[t], repeats, tables_[t]); });
    for (size_t t = 0; t < tables.size(); ++t) ShareOut(tables[t], *routing_, tables_[t]);
  }
  LayOut(tables);
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

std::byte* Shards::PlaceOf(const Gather& gather, const Table& table, size_t distinct) const {
  const Place place = table.places[distinct];
  return gather.to[place.shard] + table.first_byte[place.shard] + place.row * table.row_bytes;
}

void Shards::SumGradients(const Gather& gather, size_t t, std::span<const uint32_t> ends,
                          size_t wave, size_t begin, size_t end) const {
  const DefaultFloatEnvironment environment;
  const Table& table = tables_[t];
  const size_t dim = table.dim;
  const float* grads = gather.grads[t];
  const bool is_narrow = table.encoding != ValueType::kFloat32;
  const bool is_encoded_here = is_narrow && gather.feedback[t].residuals == nullptr;
  const uint32_t* occurrences = occurrences_.data();
  size_t first = begin == 0 ? 0 : ends[begin - 1];
  size_t ahead = first;
  for (size_t d = begin; d < end; ++d) {
    for (; ahead < std::min<size_t>(table.count, ends[d] + kRowsAhead); ++ahead) {
      PrefetchBytes(grads + occurrences[ahead] * dim, dim * sizeof(float));
    }
    std::byte* place = PlaceOf(gather, table, d);
    float* sum = is_narrow ? sums_.data() + (d - wave) * dim : reinterpret_cast<float*>(place);
    gather.kernels.sum_rows(grads, occurrences + first, ends[d] - first, table.dim, sum);
    if (is_encoded_here) EncodeRow(gather.kernels, table.encoding, sum, table.dim, place);
    first = ends[d];
  }
}

void Shards::EncodeWithFeedback(const Gather& gather, size_t t, size_t begin, size_t end) const {
  const DefaultFloatEnvironment environment;
  const Table& table = tables_[t];
  const auto [residuals, undo] = gather.feedback[t];
  const MutexLock lock(residuals->mutex());
  for (size_t d = begin; d < end; ++d) {
    if (d + kRowsAhead < end) residuals->Prefetch(table.distinct[d + kRowsAhead]);
    residuals->Encode(gather.kernels, table.encoding, table.distinct[d],
                      sums_.data() + (d - begin) * table.dim, PlaceOf(gather, table, d),
                      undo + d * residuals->undo_floats());
  }
}

void Shards::GatherGradients(const Gather& gather, const Progressed& progressed, ThreadPool& pool) {
  std::vector<uint64_t> bytes(shards_.size());
  const size_t wave = kRowsPerTask * kTasksPerWave * static_cast<size_t>(pool.threads());
  for (size_t t = 0; t < tables_.size(); ++t) {
    const Table& table = tables_[t];
    const std::span<const uint32_t> ends = GroupOccurrences(table);
    if (table.encoding != ValueType::kFloat32) sums_.Reset(std::min(wave, ends.size()) * table.dim);
    for (size_t begin = 0; begin < ends.size(); begin += wave) {
      const size_t end = std::min(ends.size(), begin + wave);
      pool.Run(TaskCount(end - begin), [&](size_t task) {
        const size_t first = begin + task * kRowsPerTask;
        SumGradients(gather, t, ends, begin, first, std::min(end, first + kRowsPerTask));
      });
      // By one thread: which residuals are kept depends on the order of the keys.
      if (gather.feedback[t].residuals != nullptr) EncodeWithFeedback(gather, t, begin, end);
      for (size_t d = begin; d < end; ++d) {
        const Place place = table.places[d];
        bytes[place.shard] =
            table.first_byte[place.shard] + (size_t{place.row} + 1) * table.row_bytes;
      }
      progressed(bytes);
    }
  }
  for (size_t s = 0; s < shards_.size(); ++s) bytes[s] = shards_[s].value_bytes;
  progressed(bytes);
}

void Shards::ReturnFeedback(std::span<const Feedback> feedback,
                            const std::vector<bool>& unapplied) const {
  if (std::none_of(unapplied.begin(), unapplied.end(), std::identity())) return;
  const DefaultFloatEnvironment environment;
  for (size_t t = 0; t < tables_.size(); ++t) {
    const Table& table = tables_[t];
    const auto [residuals, undo] = feedback[t];
    if (residuals == nullptr) continue;
    const MutexLock lock(residuals->mutex());
    // Last first: where a key travels twice, the second took what the first had lost.
    for (size_t d = table.distinct.size(); d-- > 0;) {
      if (!unapplied[table.places[d].shard]) continue;
      residuals->Return(table.distinct[d], undo + d * residuals->undo_floats());
    }
  }
}

size_t Shards::CopyRows(const Scatter& scatter, const Table& table, float* out, size_t begin,
                        size_t end) {
  const DefaultFloatEnvironment environment;
  const size_t dim = table.dim;
  const size_t row_bytes = table.row_bytes;
  const Kernels::DecodeFn decode = scatter.kernels.decode[static_cast<size_t>(table.encoding)];
  for (size_t i = begin; i < end; ++i) {
    const Place place = table.places[table.which[i]];
    if (scatter.skipped[place.shard]) continue;
    const std::byte* rows = scatter.rows[place.shard];
    const uint64_t at = table.first_byte[place.shard] + place.row * row_bytes;
    if (rows == nullptr || at + row_bytes > scatter.bytes[place.shard]) return i;
    if (i + kRowsAhead < end) {
      const Place next = table.places[table.which[i + kRowsAhead]];
      if (scatter.rows[next.shard] != nullptr) {
        PrefetchBytes(
            scatter.rows[next.shard] + table.first_byte[next.shard] + next.row * row_bytes,
            row_bytes);
      }
    }
    decode(rows + at, table.dim, out + i * dim);
  }
  return end;
}

bool Shards::HasAllRows(const Scatter& scatter) const {
  for (size_t s = 0; s < shards_.size(); ++s) {
    const bool is_whole = scatter.rows[s] != nullptr && scatter.bytes[s] == shards_[s].value_bytes;
    if (!is_whole && !scatter.skipped[s] && shards_[s].value_bytes > 0) return false;
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
