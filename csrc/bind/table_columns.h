// Rows and state of a table as columns of NumPy arrays, for checkpoints and inspection.
//
// Thread-safety: call with the GIL held; it is released while rows are copied. Invariant: what was
// exported and imported again is the same table, bit for bit.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <utility>

#include "table/table.h"

namespace embery {

// Columns key uint64, lsn uint64, count uint32, step uint32, time_s uint32, values uint8
// (n, value bytes), state float32 (n, state floats): all rows of the slots, by slot and mixed key.
pybind11::dict ExportRows(Table& table, uint32_t slot_begin, uint32_t slot_end);

// The same as of the cut that is on (Store::BeginCut), for rows that changed after `since`, uint64,
// the LSNs of all slots; None takes all rows. Raises ResourceExhausted if the cut is lost.
pybind11::dict ExportCutRows(Table& table, uint32_t slot_begin, uint32_t slot_end,
                             const pybind11::object& since);

// ExportState as of the cut; with `since`, only tombstones after it, and their `deleted_keys`.
pybind11::dict ExportCutState(Table& table, const pybind11::object& since);

// The same columns for the rows of `keys` that exist, and `found` uint8, one a key.
pybind11::dict ReadRows(Table& table, const pybind11::array& keys);

// Announces that `rows` rows of the slots [slot_begin, slot_end) are about to be imported; without
// it their import is slow. Raises ResourceExhausted if memory is used up.
void ReserveRows(Table& table, uint32_t slot_begin, uint32_t slot_end, size_t rows);

// Raises InvalidArgument if a column is missing or of another shape; nothing was imported then.
// Without the column `lsn` the rows are changes of now.
void ImportRows(Table& table, const pybind11::dict& columns);

// Counters, LSNs, admission candidates and tombstones.
pybind11::dict ExportState(Table& table);
void ImportState(Table& table, const pybind11::dict& state);

// Slots of one group, which move together; raises InvalidArgument for others.
struct SlotRange {
  SlotRange(uint32_t slot_begin, uint32_t slot_end);
  uint32_t group() const { return begin / kSlotsPerGroup; }

  uint32_t begin;
  uint32_t end;
};

// The number of rows, and a checksum of which they are and their last changes.
enum class WhichRows : uint8_t { kServed, kCopied };
std::pair<uint64_t, uint64_t> CheckSlots(Table& table, const SlotRange& slots, WhichRows which);

}  // namespace embery
