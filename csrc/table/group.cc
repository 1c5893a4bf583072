#include "table/group.h"

#include <bit>
#include <cstring>
#include <string>
#include <utility>

#include "base/occurrences.h"
#include "base/random.h"
#include "optim/initializer.h"

namespace embery {
namespace {

// Entries of a growing index that an operation moves, beyond eight for each of its keys.
constexpr size_t kMigratePerOperation = 65536;
constexpr size_t kPrefetchDistance = 6;

uint32_t RoundingNoise(MixedKey mixed, uint32_t updates) {
  return static_cast<uint32_t>(SplitMix64(mixed.bits + updates));
}

// A row as floats, and behind it encoded: int8 takes a scale beyond a byte a value.
constexpr size_t RoomForValues(uint32_t dim) { return 2 * size_t{dim} + 1; }

}  // namespace

SlotGroup::SlotGroup(TableContext& context, uint32_t number)
    : context_(context),
      number_(number),
      index_(context.index_segments, static_cast<double>(number) / kGroupCount),
      records_(context.slabs),
      admission_(context.spec.admission) {}

Handle SlotGroup::Find(MixedKey mixed) const {
  return index_.Find(TagOf(mixed), [&](Handle handle) { return IsKey(handle, mixed); });
}

template <typename Use>
void SlotGroup::FindAll(const MixedKey* keys, size_t count, size_t record_bytes, Use use) const {
  const uint64_t deleted = counters_.deleted;
  // The analysis does not follow the lock, which this function requires, into the stages.
  LookUpMany(
      count, [&](size_t) NO_THREAD_SAFETY_ANALYSIS -> const Index& { return index_; },
      [&](size_t i) { return TagOf(keys[i]); },
      [&](size_t, Handle guess) { PrefetchRecord(guess, record_bytes); },
      [&](size_t i, Handle guess) NO_THREAD_SAFETY_ANALYSIS {
        // A deletion by `use` may have given the guessed record to another key.
        const bool right =
            guess != kNoHandle && IsKey(guess, keys[i]) && counters_.deleted == deleted;
        use(i, right ? guess : Find(keys[i]));
      });
}

// ---- pull ---------------------------------------------------------------------------------------

Status SlotGroup::PullMissing(const GroupBatch& batch, Tick tick, RowsOut out,
                              GroupScratch& scratch) {
  WriterLock lock(mutex_);
  BeginOperation();
  index_.Migrate(8 * batch.count + kMigratePerOperation);
  const uint32_t dim = context_.spec.dim;
  const auto type = static_cast<size_t>(context_.spec.value_type);
  const RowWriter rows(context_.kernels, context_.spec.value_type, dim, out);
  float* values = scratch.values.Reset(RoomForValues(dim));
  for (size_t i = 0; i < batch.count; ++i) {
    Handle handle = kNoHandle;
    EMBERY_RETURN_IF_ERROR(FindOrAdmit(batch.keys[i], Sighting::kPull, tick, values, handle));
    const std::byte* stored = nullptr;
    if (handle != kNoHandle) {
      stored = At(handle).values();
      LogRow(batch.keys[i], handle);
    } else {
      // Held back: the initial value, as its storage type would give it back.
      auto* encoded = reinterpret_cast<std::byte*>(values + dim);
      InitializeValues(context_.spec.initializer, KeyOf(batch.keys[i]), dim, values);
      context_.kernels.encode[type](values, dim, {}, encoded);
      stored = encoded;
    }
    rows.Write(batch.positions[i], stored, values);
  }
  return Status::Ok();
}

// ---- push ---------------------------------------------------------------------------------------

size_t SlotGroup::GroupOccurrences(const GroupBatch& batch, GroupScratch& scratch) {
  const size_t count = batch.count;
  const size_t capacity = std::bit_ceil(2 * count);
  const uint64_t mask = capacity - 1;
  uint32_t* heads = scratch.heads.Reset(capacity);
  MixedKey* distinct = scratch.distinct.Reset(count);
  uint32_t* which = scratch.which.Reset(count);
  uint32_t* ends = scratch.ends.Reset(count + 1);
  uint32_t* occurrences = scratch.occurrences.Reset(count);
  std::memset(heads, 0, capacity * sizeof(*heads));
  uint32_t found = 0;
  for (size_t i = 0; i < count; ++i) {
    const MixedKey key = batch.keys[i];
    uint64_t at = key.bits & mask;
    while (heads[at] != 0 && distinct[heads[at] - 1] != key) at = (at + 1) & mask;
    if (heads[at] == 0) {
      distinct[found] = key;
      ends[found] = 0;
      heads[at] = ++found;
    }
    which[i] = heads[at] - 1;
    ++ends[which[i]];
  }
  GroupPositions(
      {which, count}, [&](size_t i) { return batch.positions[i]; }, {ends, found}, occurrences);
  return found;
}

Status SlotGroup::CheckSums(const GroupBatch& batch, const float* grads,
                            GroupScratch& scratch) const {
  const uint32_t dim = context_.spec.dim;
  const size_t distinct_count = GroupOccurrences(batch, scratch);
  const uint32_t* ends = scratch.ends.data();
  float* sum = scratch.sum.Reset(dim);
  for (size_t d = 0; d < distinct_count; ++d) {
    const uint32_t begin = d == 0 ? 0 : ends[d - 1];
    if (ends[d] - begin == 1) continue;
    context_.kernels.sum_rows(grads, scratch.occurrences.data() + begin, ends[d] - begin, dim, sum);
    if (context_.kernels.all_finite(sum, dim)) continue;
    return Status::InvalidArgument("push to table '" + context_.spec.name + "': the sum of the " +
                                   std::to_string(ends[d] - begin) + " gradients of key " +
                                   std::to_string(KeyOf(scratch.distinct.data()[d])) +
                                   " is not finite; nothing was applied");
  }
  return Status::Ok();
}

Status SlotGroup::Push(const GroupBatch& batch, Tick tick, const float* grads,
                       GroupScratch& scratch) {
  const uint32_t dim = context_.spec.dim;
  const Kernels& kernels = context_.kernels;
  const size_t distinct_count = GroupOccurrences(batch, scratch);
  const uint32_t* ends = scratch.ends.data();
  const uint32_t* occurrences = scratch.occurrences.data();
  float* sum = scratch.sum.Reset(dim);
  float* values = scratch.values.Reset(RoomForValues(dim));
  size_t ahead = 0;
  Status status;

  WriterLock lock(mutex_);
  BeginOperation();
  index_.Migrate(8 * distinct_count + kMigratePerOperation);
  FindAll(scratch.distinct.data(), distinct_count, context_.layout.stride,
          [&](size_t d, Handle handle) REQUIRES(mutex_) {
            if (!status.ok()) return;
            const uint32_t begin = d == 0 ? 0 : ends[d - 1];
            for (; ahead < std::min<size_t>(batch.count, ends[d] + kPrefetchDistance); ++ahead) {
              PrefetchBytes(grads + size_t{occurrences[ahead]} * dim, dim * sizeof(float));
            }
            const float* grad = grads + size_t{occurrences[begin]} * dim;
            if (ends[d] - begin > 1) {
              kernels.sum_rows(grads, occurrences + begin, ends[d] - begin, dim, sum);
              grad = sum;
            }
            if (!kernels.all_finite(grad, dim)) {
              ++counters_.non_finite;
              return;
            }
            const MixedKey mixed = scratch.distinct[d];
            if (handle == kNoHandle || IsExpired(At(handle), tick.now_s)) {
              status = FindOrAdmit(mixed, Sighting::kPush, tick, values, handle);
              if (!status.ok()) return;
            }
            if (handle == kNoHandle) {
              ++counters_.rejected;
            } else {
              Update(handle, mixed, tick, grad, values);
            }
          });
  return status;
}

void SlotGroup::Update(Handle handle, MixedKey mixed, Tick tick, const float* grad, float* values) {
  const TableSpec& spec = context_.spec;
  const auto type = static_cast<size_t>(spec.value_type);
  KeepForCut(mixed, handle);
  Record record = At(handle);
  const uint32_t updates = record.updates();
  const UpdateClock clock{uint64_t{updates} + 1, tick.step};
  const auto step = context_.kernels.step[static_cast<size_t>(spec.optimizer.kind)];
  float* state = record.state(context_.layout);
  if (spec.value_type == ValueType::kFloat32) {
    step(spec.optimizer, clock, spec.dim, grad, reinterpret_cast<float*>(record.values()), state);
  } else {
    context_.kernels.decode[type](record.values(), spec.dim, values);
    step(spec.optimizer, clock, spec.dim, grad, values, state);
    const Rounding rounding{Rounding::Kind::kStochastic, RoundingNoise(mixed, updates)};
    context_.kernels.encode[type](values, spec.dim, rounding, record.values());
  }
  record.SetTouched(tick.step, tick.now_s);
  record.SetKeyAndLsn(LowOf(mixed), NextLsn(TagOf(mixed)));
  // Saturates: what depends on it has long converged by then.
  record.SetUpdates(updates == UINT32_MAX ? updates : updates + 1);
  ++counters_.updates;
  LogRow(mixed, handle);
}

// ---- rows that come
// --------------------------------------------------------------------------------

void SlotGroup::BeginOperation() {
  KeepStateForCut();
  ++operation_;
  slots_raised_ = 0;
}

Lsn SlotGroup::NextLsn(uint32_t tag) {
  const uint32_t slot = SlotInGroup(tag);
  const uint64_t bit = uint64_t{1} << slot;
  slot_lsns_[slot] += (slots_raised_ & bit) == 0 ? 1 : 0;
  slots_raised_ |= bit;
  return slot_lsns_[slot];
}

void SlotGroup::InitializeRecord(Handle handle, MixedKey mixed, Tick tick, float* values) {
  const TableSpec& spec = context_.spec;
  const auto type = static_cast<size_t>(spec.value_type);
  Record record = At(handle);
  InitializeValues(spec.initializer, KeyOf(mixed), spec.dim, values);
  context_.kernels.encode[type](values, spec.dim, {}, record.values());
  context_.kernels.decode[type](record.values(), spec.dim, values);
  InitializeState(spec.optimizer, spec.dim, values, record.state(context_.layout));
  record.SetTouched(tick.step, tick.now_s);
  record.SetKeyAndLsn(LowOf(mixed), NextLsn(TagOf(mixed)));
  record.SetUpdates(0);
}

Status SlotGroup::Insert(MixedKey mixed, Tick tick, float* values, Handle& handle) {
  if (!index_.Reserve(1)) {
    return Status::ResourceExhausted("table '" + context_.spec.name +
                                     "': no memory for the index of another row");
  }
  const Handle fresh = records_.Allocate();
  if (fresh == kNoHandle) {
    return Status::ResourceExhausted("table '" + context_.spec.name +
                                     "': no memory for another row");
  }
  InitializeRecord(fresh, mixed, tick, values);
  index_.Insert(TagOf(mixed), fresh);
  ++counters_.admitted;
  handle = fresh;
  return Status::Ok();
}

Status SlotGroup::FindOrAdmit(MixedKey mixed, Sighting sighting, Tick tick, float* values,
                              Handle& handle) {
  handle = Find(mixed);
  if (handle != kNoHandle && !IsExpired(At(handle), tick.now_s)) return Status::Ok();
  if (handle != kNoHandle) {
    Delete(TagOf(mixed), handle);
    ++counters_.evicted;
    handle = kNoHandle;
  }
  const bool is_admitted = admission_.Admit(mixed, KeyOf(mixed), sighting, operation_, tick.step);
  LogCandidate(mixed);
  if (!is_admitted) return Status::Ok();
  return Insert(mixed, tick, values, handle);
}

}  // namespace embery
