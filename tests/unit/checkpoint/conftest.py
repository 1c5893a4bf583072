"""Tables in memory: a real source and sink of rows, for tests of the format alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import embery as em

Arrays = dict[str, NDArray[Any]]
SLOT_SHIFT = np.uint64(52)


class MemoryTable:
    """Rows in numpy columns, sorted by slot; the slot is the top 12 bits of the key."""

    def __init__(self, table: em.Table, rows: int = 0, *, seed: int = 0) -> None:
        self.definition: Mapping[str, Any] = table.to_dict()
        item = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}[table.dtype]
        self.value_bytes = -(-item * table.dim // 4) * 4 + 4 * (table.dtype == "int8")
        self.state_floats = table.optimizer.state_floats(table.dim)
        self.columns = self._random(rows, seed)
        self.state: Any = {"step": 7, "slot_lsns": np.arange(8, dtype=np.uint64), "counters": {}}
        self.parts: list[Arrays] = []
        self.announced = 0

    def _random(self, rows: int, seed: int) -> Arrays:
        rng = np.random.default_rng(seed)
        u32 = rng.integers(0, 2**32, (3, rows), dtype=np.uint32)
        return {
            "key": np.sort(rng.integers(0, 2**64, rows, dtype=np.uint64)),
            "count": u32[0],
            "step": u32[1],
            "time_s": u32[2],
            "lsn": rng.integers(0, 2**64, rows, dtype=np.uint64),
            "values": rng.integers(0, 256, (rows, self.value_bytes), dtype=np.uint8),
            "state": rng.standard_normal((rows, self.state_floats), dtype=np.float32),
        }

    @property
    def row_count(self) -> int:
        return len(self.columns["key"])

    def export_rows(self, slot_begin: int, slot_end: int, since: Any) -> Arrays:
        slots = (self.columns["key"] >> SLOT_SHIFT).astype(np.int64)
        begin, end = np.searchsorted(slots, [slot_begin, slot_end])
        return {name: column[begin:end] for name, column in self.columns.items()}

    def export_state(self, since: Any) -> Any:
        return self.state

    def clear(self) -> None:
        self.columns, self.state = self._random(0, 0), None

    def reserve(self, slot_begin: int, slot_end: int, rows: int) -> None:
        self.announced += rows

    def import_rows(self, columns: Mapping[str, NDArray[Any]]) -> None:
        self.parts.append({name: column.copy() for name, column in columns.items()})

    def import_state(self, state: Any) -> None:
        self.state = state
        parts, self.parts = self.parts, []
        if parts:
            joined = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
            order = np.argsort(joined["key"], kind="stable")
            self.columns = {name: column[order] for name, column in joined.items()}

    def assert_equals(self, other: MemoryTable) -> None:
        assert self.columns.keys() == other.columns.keys()
        for name, column in self.columns.items():
            assert column.dtype == other.columns[name].dtype
            assert column.shape == other.columns[name].shape, name
            assert column.tobytes() == other.columns[name].tobytes(), name


@pytest.fixture
def memory_table() -> Callable[..., MemoryTable]:
    """Return `make(name, rows, **fields of the table)`."""

    def make(name: str = "item", rows: int = 0, *, seed: int = 0, **fields: Any) -> MemoryTable:
        return MemoryTable(em.Table(name, **{"dim": 3, **fields}), rows, seed=seed)

    return make
