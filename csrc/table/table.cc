#include "table/table.h"

#include <algorithm>

namespace embery {
namespace {

// A table above this gives up a 64th of its rows at once, so that ranking them all pays.
constexpr uint64_t kExactRowsMax = 8192;
constexpr uint64_t kSlackDivisor = 64;
// A group is searched for expired rows this many times within a time-to-live.
constexpr uint32_t kSweepsPerTtl = 32;
constexpr size_t kRowsSweptPerBatch = 65536;

}  // namespace

Table::Table(const TableSpec& spec, const Kernels& kernels) : context_(spec, kernels) {
  for (uint32_t i = 0; i < kGroupCount; ++i) {
    groups_.push_back(std::make_unique<SlotGroup>(context_, i));
  }
}

SlotGroup& Table::copies(uint32_t number) {
  MutexLock lock(copies_mutex_);
  for (uint32_t i = static_cast<uint32_t>(copies_.size()); i < kGroupCount; ++i) {
    copies_.push_back(std::make_unique<SlotGroup>(context_, i));
  }
  return *copies_[number];
}

uint64_t Table::rows() {
  uint64_t rows = 0;
  for (const auto& group : groups_) rows += group->size().rows;
  return rows;
}

size_t Table::Evict(Tick tick, Effort effort) {
  const EvictionSpec& eviction = context_.spec.eviction;
  if (eviction.kind == EvictionSpec::Kind::kNone) return 0;
  MutexLock lock(eviction_mutex_);
  if (eviction.kind == EvictionSpec::Kind::kTtl) return EvictExpired(tick.now_s, effort);
  return EvictBeyond(eviction.rows_max, tick.step);
}

size_t Table::EvictBeyond(uint64_t rows_max, uint32_t step) {
  if (rows() <= rows_max) return 0;
  std::vector<Rank> ranks;
  for (const auto& group : groups_) group->AppendRanks(step, ranks);
  const uint64_t slack = rows_max > kExactRowsMax ? rows_max / kSlackDivisor : 0;
  if (ranks.size() <= rows_max) return 0;
  const size_t excess = ranks.size() - (rows_max - slack);
  std::nth_element(ranks.begin(), ranks.begin() + static_cast<ptrdiff_t>(excess - 1), ranks.end());
  std::vector<uint64_t> victims(excess);
  std::transform(ranks.begin(), ranks.begin() + static_cast<ptrdiff_t>(excess), victims.begin(),
                 [](const Rank& rank) { return rank.mixed; });
  std::sort(victims.begin(), victims.end());
  size_t evicted = 0;
  for (size_t begin = 0; begin < victims.size();) {
    const uint32_t group = GroupOf({victims[begin]});
    size_t end = begin + 1;
    while (end < victims.size() && GroupOf({victims[end]}) == group) ++end;
    evicted += groups_[group]->Evict({victims.data() + begin, end - begin});
    begin = end;
  }
  return evicted;
}

size_t Table::EvictExpired(uint32_t now_s, Effort effort) {
  const uint32_t pause_s = std::max(1u, context_.spec.eviction.ttl_s / kSweepsPerTtl);
  size_t evicted = 0;
  size_t looked_at = 0;
  for (uint32_t i = 0; i < kGroupCount; ++i) {
    if (effort == Effort::kBounded && looked_at >= kRowsSweptPerBatch) break;
    const uint32_t group = next_swept_group_;
    if (effort == Effort::kBounded && now_s - swept_s_[group] < pause_s) break;
    next_swept_group_ = (group + 1) % kGroupCount;
    swept_s_[group] = now_s;
    looked_at += groups_[group]->size().rows;
    evicted += groups_[group]->EvictExpired(now_s);
  }
  return evicted;
}

Table::Stats Table::stats() {
  Stats stats;
  for (const auto& group : groups_) {
    const SlotGroup::Size size = group->size();
    const SlotGroup::Totals totals = group->totals();
    stats.counters.Add(totals.counters);
    stats.rows += size.rows;
    stats.bytes += size.bytes + sizeof(SlotGroup);
    stats.candidates += size.candidates;
    stats.tombstones += size.tombstones;
    stats.candidates_forgotten += totals.candidates_forgotten;
    stats.tombstones_lost += totals.tombstones_lost;
  }
  return stats;
}

void Table::BeginCut(CutMemory& memory) {
  // Relaxed, as steps are: whoever reads it learned of the cut from the one who began it.
  cut_step_.store(step(), std::memory_order_relaxed);
  for (const auto& group : groups_) group->BeginCut(memory);
}

void Table::EndCut() {
  for (const auto& group : groups_) group->EndCut();
}

void Table::Clear() {
  for (const auto& group : groups_) group->Clear();
  set_step(0);
}

}  // namespace embery
