// A naive table: a map from keys to rows, one at a time, with the baseline's optimizer steps. The
// store has to give the same bits.
//
// Rows of a time-to-live are deleted when they are next asked for or by Evict; the store may delete
// them before, which only their sequence numbers show.
//
// Thread-safety: none. Ownership: a value.
#pragma once

#include <algorithm>
#include <cmath>
#include <unordered_map>
#include <vector>

#include "base/random.h"
#include "optim/initializer.h"
#include "optim/kernels.h"
#include "table/store_fixture.h"

namespace embery {

class StoreModel {
 public:
  // Requires float32 rows, and at most 8192 of them under LRU or LFU, where eviction is exact.
  explicit StoreModel(const TableSpec& spec) : spec_(spec), slot_lsns_(kSlotCount) {}

  Values Pull(const Keys& keys, PullMode mode, uint32_t now_s) {
    BeginCall(step_ + 1, now_s);
    Values out(keys.size() * spec_.dim);
    for (size_t i = 0; i < keys.size(); ++i) {
      const Row* row = FindLive(keys[i]);
      if (row == nullptr && mode == PullMode::kTrain) row = FindOrAdmit(keys[i], Sighting::kPull);
      float* to = out.data() + i * spec_.dim;
      if (row != nullptr) {
        std::copy(row->values.begin(), row->values.end(), to);
      } else if (mode == PullMode::kTrain) {
        InitializeValues(spec_.initializer, keys[i], spec_.dim, to);
      }
    }
    if (mode == PullMode::kTrain) EvictBeyond();
    return out;
  }

  std::vector<uint8_t> Peek(const Keys& keys, Values& out, uint32_t now_s) {
    now_s_ = now_s;
    std::vector<uint8_t> absent(keys.size());
    for (size_t i = 0; i < keys.size(); ++i) {
      const Row* row = FindLive(keys[i]);
      absent[i] = row == nullptr ? 1 : 0;
      if (row != nullptr) {
        std::copy(row->values.begin(), row->values.end(),
                  out.begin() + static_cast<ptrdiff_t>(i * spec_.dim));
      }
    }
    return absent;
  }

  void Push(const Keys& keys, const Values& grads, uint32_t now_s) {
    BeginCall(++step_, now_s);
    std::vector<size_t> order(keys.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::sort(order.begin(), order.end(),
              [&](size_t a, size_t b) { return keys[a] != keys[b] ? keys[a] < keys[b] : a < b; });
    Values sum(spec_.dim);
    for (size_t begin = 0; begin < order.size();) {
      const uint64_t key = keys[order[begin]];
      std::fill(sum.begin(), sum.end(), -0.0f);  // What every number can be added to unchanged.
      size_t end = begin;
      for (; end < order.size() && keys[order[end]] == key; ++end) {
        for (size_t c = 0; c < spec_.dim; ++c) sum[c] += grads[order[end] * spec_.dim + c];
      }
      PushOne(key, sum);
      begin = end;
    }
    EvictBeyond();
  }

  // As Table::Evict of a time-to-live, all rows looked at.
  void EvictExpired(uint32_t now_s) {
    BeginCall(step_ + 1, now_s);
    std::vector<uint64_t> expired;
    for (const auto& [key, row] : rows_) {
      if (IsExpired(row)) expired.push_back(key);
    }
    for (const uint64_t key : expired) Evict(key);
  }

  // In the order of StoreFixture::Rows.
  std::vector<SavedRow> Rows() const {
    std::vector<SavedRow> rows;
    for (const auto& [key, row] : rows_) {
      const auto* bytes = reinterpret_cast<const std::byte*>(row.values.data());
      rows.push_back({key,
                      row.lsn,
                      row.updates,
                      row.step,
                      row.time_s,
                      {bytes, bytes + row.values.size() * sizeof(float)},
                      row.state});
    }
    std::sort(rows.begin(), rows.end(), [&](const SavedRow& a, const SavedRow& b) {
      return Mixed(a.key).bits < Mixed(b.key).bits;
    });
    return rows;
  }

  const Counters& counters() const { return counters_; }
  const std::vector<Lsn>& slot_lsns() const { return slot_lsns_; }
  size_t rows() const { return rows_.size(); }
  size_t candidates() const { return candidates_.size(); }
  uint32_t step() const { return step_; }

 private:
  struct Row {
    Values values;
    Values state;
    Lsn lsn = 0;
    uint32_t updates = 0;
    uint32_t step = 0;
    uint32_t time_s = 0;
  };
  struct Candidate {
    uint64_t last_call[2] = {0, 0};
    uint32_t seen[2] = {0, 0};
  };

  MixedKey Mixed(uint64_t key) const { return MixKey(spec_.salt, key); }

  void BeginCall(uint32_t step, uint32_t now_s) {
    ++call_;
    touch_step_ = step;
    now_s_ = now_s;
    raised_.clear();
  }

  // The slot's number, raised once a call.
  Lsn NextLsn(uint64_t key) {
    const uint32_t slot = SlotOf(Mixed(key));
    if (raised_.emplace(slot, true).second) ++slot_lsns_[slot];
    return slot_lsns_[slot];
  }

  bool IsExpired(const Row& row) const {
    return spec_.eviction.kind == EvictionSpec::Kind::kTtl && now_s_ > row.time_s &&
           now_s_ - row.time_s >= spec_.eviction.ttl_s;
  }

  Row* FindLive(uint64_t key) {
    const auto found = rows_.find(key);
    return found == rows_.end() || IsExpired(found->second) ? nullptr : &found->second;
  }

  void Evict(uint64_t key) {
    rows_.erase(key);
    (void)NextLsn(key);
    ++counters_.evicted;
    ++counters_.deleted;
  }

  bool Admit(uint64_t key, Sighting sighting) {
    const AdmissionSpec& admission = spec_.admission;
    if (admission.kind == AdmissionSpec::Kind::kAll) return true;
    if (admission.kind == AdmissionSpec::Kind::kProbability) {
      return RandomStream(admission.seed, key).UnitAt(touch_step_) < admission.probability;
    }
    Candidate& candidate = candidates_[key];
    const auto kind = static_cast<size_t>(sighting);
    if (candidate.last_call[kind] != call_) ++candidate.seen[kind];
    candidate.last_call[kind] = call_;
    if (candidate.seen[kind] < admission.min_count) return false;
    candidates_.erase(key);
    return true;
  }

  Row* FindOrAdmit(uint64_t key, Sighting sighting) {
    if (Row* row = FindLive(key)) return row;
    if (rows_.contains(key)) Evict(key);
    if (!Admit(key, sighting)) return nullptr;
    Row& row = rows_[key];
    row.values.resize(spec_.dim);
    row.state.resize(StateFloats(spec_.optimizer.kind, spec_.dim));
    InitializeValues(spec_.initializer, key, spec_.dim, row.values.data());
    InitializeState(spec_.optimizer, spec_.dim, row.values.data(), row.state.data());
    Touch(key, row);
    ++counters_.admitted;
    return &row;
  }

  void Touch(uint64_t key, Row& row) {
    row.step = touch_step_;
    row.time_s = now_s_;
    row.lsn = NextLsn(key);
  }

  void PushOne(uint64_t key, const Values& grad) {
    if (!std::all_of(grad.begin(), grad.end(), [](float g) { return std::isfinite(g); })) {
      ++counters_.non_finite;
      return;
    }
    Row* row = FindOrAdmit(key, Sighting::kPush);
    if (row == nullptr) {
      ++counters_.rejected;
      return;
    }
    ++row->updates;
    kernels_.step[static_cast<size_t>(spec_.optimizer.kind)](spec_.optimizer, {row->updates, step_},
                                                             spec_.dim, grad.data(),
                                                             row->values.data(), row->state.data());
    Touch(key, *row);
    ++counters_.updates;
  }

  void EvictBeyond() {
    const EvictionSpec::Kind kind = spec_.eviction.kind;
    if (kind != EvictionSpec::Kind::kLru && kind != EvictionSpec::Kind::kLfu) return;
    if (rows_.size() <= spec_.eviction.rows_max) return;
    std::vector<std::pair<Rank, uint64_t>> ranks;
    for (const auto& [key, row] : rows_) {
      const bool current = row.step >= touch_step_;
      const uint64_t uses = (current ? uint64_t{1} << 32 : 0) + row.updates;
      const Rank rank = kind == EvictionSpec::Kind::kLfu ? Rank{uses, row.step, Mixed(key).bits}
                                                         : Rank{row.step, 0, Mixed(key).bits};
      ranks.emplace_back(rank, key);
    }
    std::sort(ranks.begin(), ranks.end());
    const size_t excess = ranks.size() - spec_.eviction.rows_max;
    raised_.clear();  // An eviction is a call of its own.
    for (size_t i = 0; i < excess; ++i) Evict(ranks[i].second);
  }

  const TableSpec spec_;
  const Kernels& kernels_ = *FindKernels("baseline").value();
  std::unordered_map<uint64_t, Row> rows_;
  std::unordered_map<uint64_t, Candidate> candidates_;
  Counters counters_;
  std::vector<Lsn> slot_lsns_;
  std::unordered_map<uint32_t, bool> raised_;  // Slots whose number this call has raised.
  uint32_t step_ = 0;
  uint64_t call_ = 0;
  uint32_t touch_step_ = 0;
  uint32_t now_s_ = 0;
};

}  // namespace embery
