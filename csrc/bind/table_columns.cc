#include "bind/table_columns.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "bind/arrays.h"

namespace py = pybind11;

namespace embery {
namespace {

// A group is locked while so much of it is copied, at least a slot.
constexpr size_t kBytesPerLock = size_t{1} << 18;

// LSNs of all slots, or null.
const Lsn* SinceOf(const py::object& since) {
  if (since.is_none()) return nullptr;
  const auto array = since.cast<py::array>();
  const auto* lsns = ArrayData<uint64_t>(array, "since");
  if (array.size() != kSlotCount) {
    ThrowIfError(Status::InvalidArgument("since must have " + std::to_string(kSlotCount) +
                                         " LSNs, got " + std::to_string(array.size())));
  }
  return lsns;
}

struct RowColumns {
  std::vector<uint64_t> keys;
  std::vector<uint64_t> lsns;
  std::vector<uint32_t> updates;
  std::vector<uint32_t> steps;
  std::vector<uint32_t> times_s;
  std::vector<uint8_t> values;
  std::vector<float> state;

  void Reserve(size_t rows, const RecordLayout& layout) {
    keys.reserve(rows);
    lsns.reserve(rows);
    updates.reserve(rows);
    steps.reserve(rows);
    times_s.reserve(rows);
    values.reserve(rows * layout.value_bytes);
    state.reserve(rows * layout.state_floats);
  }

  void Append(const RowView& row, const RecordLayout& layout) {
    keys.push_back(row.key);
    lsns.push_back(row.lsn);
    updates.push_back(row.updates);
    steps.push_back(row.step);
    times_s.push_back(row.time_s);
    const auto* bytes = reinterpret_cast<const uint8_t*>(row.values);
    values.insert(values.end(), bytes, bytes + layout.value_bytes);
    state.insert(state.end(), row.state, row.state + layout.state_floats);
  }

  py::dict ToDict(const RecordLayout& layout) && {
    const auto count = static_cast<py::ssize_t>(keys.size());
    py::dict columns;
    columns["key"] = ToArray(std::move(keys));
    columns["lsn"] = ToArray(std::move(lsns));
    columns["count"] = ToArray(std::move(updates));
    columns["step"] = ToArray(std::move(steps));
    columns["time_s"] = ToArray(std::move(times_s));
    columns["values"] =
        ToArray(std::move(values), {count, static_cast<py::ssize_t>(layout.value_bytes)});
    columns["state"] =
        ToArray(std::move(state), {count, static_cast<py::ssize_t>(layout.state_floats)});
    return columns;
  }
};

template <typename T>
const T* Column(const py::dict& columns, const char* name, size_t count, size_t width) {
  if (!columns.contains(name)) {
    ThrowIfError(Status::InvalidArgument(std::string("rows have no column '") + name + "'"));
  }
  const auto array = columns[name].cast<py::array>();
  if (static_cast<size_t>(array.size()) != count * width) {
    ThrowIfError(Status::InvalidArgument(std::string("column '") + name + "' must have " +
                                         std::to_string(count * width) + " elements, got " +
                                         std::to_string(array.size())));
  }
  return ArrayData<T>(array, name);
}

template <typename T, typename Field>
std::vector<T> Pluck(const std::vector<SlotGroup::State>& groups, Field field) {
  std::vector<T> values;
  for (const SlotGroup::State& group : groups) field(group, values);
  return values;
}

constexpr std::pair<const char*, uint64_t Counters::*> kCounterFields[] = {
    {"admitted", &Counters::admitted},     {"rejected", &Counters::rejected},
    {"evicted", &Counters::evicted},       {"deleted", &Counters::deleted},
    {"non_finite", &Counters::non_finite}, {"updates", &Counters::updates},
};

// The states of consecutive groups.
py::dict ToDict(const std::vector<SlotGroup::State>& groups, uint32_t step) {
  using Values = std::vector<uint64_t>;
  py::dict state;
  state["step"] = step;
  state["slot_lsns"] =
      ToArray(Pluck<uint64_t>(groups, [](const SlotGroup::State& g, Values& values) {
        values.insert(values.end(), g.slot_lsns.begin(), g.slot_lsns.end());
      }));
  for (const auto& [name, field] : kCounterFields) {
    state[name] =
        ToArray(Pluck<uint64_t>(groups, [field = field](const SlotGroup::State& g, Values& values) {
          values.push_back(g.counters.*field);
        }));
  }
  // One row a group: operations, candidates forgotten, tombstones lost.
  state["groups"] = ToArray(Pluck<uint64_t>(groups, [](const SlotGroup::State& g, Values& values) {
    values.insert(values.end(), {g.operation, g.candidates_forgotten, g.tombstones_lost});
  }));
  state["candidates"] =
      ToArray(Pluck<uint64_t>(groups, [](const SlotGroup::State& g, Values& values) {
        for (const Candidate& c : g.candidates) {
          values.insert(values.end(),
                        {c.mixed, c.last_operation, uint64_t{c.pulls} << 16 | c.pushes});
        }
      }));
  state["tombstones"] =
      ToArray(Pluck<uint64_t>(groups, [](const SlotGroup::State& g, Values& values) {
        for (const Tombstone& t : g.tombstones) values.insert(values.end(), {t.mixed, t.lsn});
      }));
  return state;
}

// Records of `width` numbers that begin with a mixed key; calls take(group, record) for each.
template <typename Take>
void ForEachRecord(const py::dict& state, const char* name, py::ssize_t width, uint32_t group_begin,
                   std::vector<SlotGroup::State>& groups, Take take) {
  const auto records = state[name].cast<py::array>();
  const auto* record = ArrayData<uint64_t>(records, name);
  for (py::ssize_t i = 0; i + width <= records.size(); i += width, record += width) {
    const uint32_t group = GroupOf({record[0]}) - group_begin;
    if (group >= groups.size()) {
      ThrowIfError(Status::InvalidArgument(std::string(name) + " are of other slots"));
    }
    take(groups[group], record);
  }
}

std::vector<SlotGroup::State> FromDict(const py::dict& state, uint32_t group_begin, size_t count) {
  std::vector<SlotGroup::State> groups(count);
  const auto* lsns = Column<uint64_t>(state, "slot_lsns", count, kSlotsPerGroup);
  const auto* extra = Column<uint64_t>(state, "groups", count, 3);
  for (size_t i = 0; i < count; ++i) {
    groups[i].slot_lsns.assign(lsns + i * kSlotsPerGroup, lsns + (i + 1) * kSlotsPerGroup);
    groups[i].operation = extra[3 * i];
    groups[i].candidates_forgotten = extra[3 * i + 1];
    groups[i].tombstones_lost = extra[3 * i + 2];
  }
  for (const auto& [name, field] : kCounterFields) {
    const auto* values = Column<uint64_t>(state, name, count, 1);
    for (size_t i = 0; i < count; ++i) groups[i].counters.*field = values[i];
  }
  ForEachRecord(
      state, "candidates", 3, group_begin, groups,
      [](SlotGroup::State& group, const uint64_t* record) {
        group.candidates.push_back({record[0], record[1], static_cast<uint16_t>(record[2] >> 16),
                                    static_cast<uint16_t>(record[2] & 0xffff)});
      });
  ForEachRecord(state, "tombstones", 2, group_begin, groups,
                [](SlotGroup::State& group, const uint64_t* record) {
                  group.tombstones.push_back({record[0], record[1]});
                });
  return groups;
}

}  // namespace

SlotRange::SlotRange(uint32_t slot_begin, uint32_t slot_end) : begin(slot_begin), end(slot_end) {
  if (begin < end && end <= kSlotCount && begin / kSlotsPerGroup == (end - 1) / kSlotsPerGroup) {
    return;
  }
  ThrowIfError(Status::InvalidArgument("slots that move must be a range within one group of " +
                                       std::to_string(kSlotsPerGroup) + ", got [" +
                                       std::to_string(begin) + ", " + std::to_string(end) + ")"));
}

py::dict ExportRows(Table& table, uint32_t slot_begin, uint32_t slot_end) {
  RowColumns columns;
  {
    const py::gil_scoped_release release;
    const uint32_t begin = slot_begin / kSlotsPerGroup;
    const uint32_t end = std::min((slot_end + kSlotsPerGroup - 1) / kSlotsPerGroup, kGroupCount);
    size_t rows = 0;
    for (uint32_t group = begin; group < end; ++group) rows += table.group(group).size().rows;
    columns.Reserve(rows, table.layout());
    for (uint32_t group = begin; group < end; ++group) {
      table.group(group).VisitSlots(
          slot_begin, slot_end, [&](const RowView& row) { columns.Append(row, table.layout()); });
    }
  }
  return std::move(columns).ToDict(table.layout());
}

py::dict ExportCutRows(Table& table, uint32_t slot_begin, uint32_t slot_end,
                       const py::object& since) {
  const Lsn* lsns = SinceOf(since);
  RowColumns columns;
  Status status;
  {
    const py::gil_scoped_release release;
    uint32_t begin = slot_begin;
    while (begin < slot_end && status.ok()) {
      const uint32_t number = begin / kSlotsPerGroup;
      SlotGroup& group = table.group(number);
      const size_t bytes = group.size().rows * table.layout().stride;
      const auto slots = static_cast<uint32_t>(
          std::clamp<size_t>(kBytesPerLock * kSlotsPerGroup / (bytes + 1), 1, kSlotsPerGroup));
      const uint32_t end = std::min({begin + slots, (number + 1) * kSlotsPerGroup, slot_end});
      const Lsn* of_group = lsns == nullptr ? nullptr : lsns + size_t{number} * kSlotsPerGroup;
      status = group.VisitCut(begin, end, of_group,
                              [&](const RowView& row) { columns.Append(row, table.layout()); });
      begin = end;
    }
  }
  ThrowIfError(status);
  return std::move(columns).ToDict(table.layout());
}

py::dict ExportCutState(Table& table, const py::object& since) {
  const Lsn* lsns = SinceOf(since);
  std::vector<SlotGroup::State> groups;
  std::vector<uint64_t> deleted;
  for (uint32_t i = 0; i < kGroupCount; ++i) {
    Result<SlotGroup::State> state = table.group(i).ExportCutState();
    ThrowIfError(state.status());
    groups.push_back(std::move(state).value());
    if (lsns == nullptr) continue;
    std::erase_if(groups.back().tombstones, [&](const Tombstone& tombstone) {
      return tombstone.lsn <= lsns[SlotOf({tombstone.mixed})];
    });
    for (const Tombstone& tombstone : groups.back().tombstones) {
      deleted.push_back(UnmixKey(table.spec().salt, {tombstone.mixed}));
    }
  }
  py::dict state = ToDict(groups, table.cut_step());
  if (lsns != nullptr) state["deleted_keys"] = ToArray(std::move(deleted));
  return state;
}

py::dict ReadRows(Table& table, const py::array& keys) {
  const uint64_t* data = ArrayData<uint64_t>(keys, "keys");
  const auto count = static_cast<size_t>(keys.size());
  RowColumns columns;
  std::vector<uint8_t> found(count);
  {
    const py::gil_scoped_release release;
    for (size_t i = 0; i < count; ++i) {
      const MixedKey mixed = MixKey(table.spec().salt, data[i]);
      found[i] = table.group(GroupOf(mixed)).VisitRow(mixed, [&](const RowView& row) {
        columns.Append(row, table.layout());
      });
    }
  }
  py::dict result = std::move(columns).ToDict(table.layout());
  result["found"] = ToArray(std::move(found));
  return result;
}

void ReserveRows(Table& table, uint32_t slot_begin, uint32_t slot_end, size_t rows) {
  if (slot_begin >= slot_end || slot_end > kSlotCount) {
    ThrowIfError(Status::InvalidArgument(
        "slots must be a range within [0, " + std::to_string(kSlotCount) + "), got [" +
        std::to_string(slot_begin) + ", " + std::to_string(slot_end) + ")"));
  }
  // The mix spreads keys over slots like draws with equal chances; four deviations hardly any group
  // exceeds, and one that does grows once.
  const double mean = static_cast<double>(rows) * kSlotsPerGroup / (slot_end - slot_begin);
  const auto wanted = static_cast<size_t>(mean + 4 * std::sqrt(mean));
  Status status;
  {
    const py::gil_scoped_release release;
    const uint32_t end = (slot_end + kSlotsPerGroup - 1) / kSlotsPerGroup;
    for (uint32_t group = slot_begin / kSlotsPerGroup; group < end && status.ok(); ++group) {
      status = table.group(group).ReserveRows(wanted);
    }
  }
  ThrowIfError(status);
}

void ImportRows(Table& table, const py::dict& columns) {
  const RecordLayout& layout = table.layout();
  const auto count = static_cast<size_t>(columns["key"].cast<py::array>().size());
  const auto* keys = Column<uint64_t>(columns, "key", count, 1);
  const bool is_change = !columns.contains("lsn");
  const auto* lsns = is_change ? nullptr : Column<uint64_t>(columns, "lsn", count, 1);
  const auto* updates = Column<uint32_t>(columns, "count", count, 1);
  const auto* steps = Column<uint32_t>(columns, "step", count, 1);
  const auto* times_s = Column<uint32_t>(columns, "time_s", count, 1);
  const auto* values = Column<uint8_t>(columns, "values", count, layout.value_bytes);
  const auto* state = Column<float>(columns, "state", count, layout.state_floats);
  Status status;
  {
    const py::gil_scoped_release release;
    for (size_t i = 0; i < count && status.ok(); ++i) {
      const MixedKey mixed = MixKey(table.spec().salt, keys[i]);
      const RowView row{keys[i],
                        SlotOf(mixed),
                        is_change ? 0 : lsns[i],
                        updates[i],
                        steps[i],
                        times_s[i],
                        reinterpret_cast<const std::byte*>(values + i * layout.value_bytes),
                        state + i * layout.state_floats};
      SlotGroup& group = table.group(GroupOf(mixed));
      status = is_change ? group.Replace(row) : group.Import(row);
    }
  }
  ThrowIfError(status);
}

py::dict ExportState(Table& table) {
  std::vector<SlotGroup::State> groups;
  for (uint32_t i = 0; i < kGroupCount; ++i) groups.push_back(table.group(i).ExportState());
  return ToDict(groups, table.step());
}

void ImportState(Table& table, const py::dict& state) {
  const std::vector<SlotGroup::State> groups = FromDict(state, 0, kGroupCount);
  table.set_step(state["step"].cast<uint32_t>());
  for (uint32_t i = 0; i < kGroupCount; ++i) table.group(i).ImportState(groups[i]);
}

std::pair<uint64_t, uint64_t> CheckSlots(Table& table, const SlotRange& slots, WhichRows which) {
  const py::gil_scoped_release release;
  uint64_t rows = 0;
  uint64_t sum = 0;
  SlotGroup& group =
      which == WhichRows::kServed ? table.group(slots.group()) : table.copies(slots.group());
  group.VisitSlots(slots.begin, slots.end, [&](const RowView& row) {
    ++rows;
    sum += Fmix64(row.key ^ Fmix64(row.lsn));
  });
  return {rows, sum};
}

}  // namespace embery
