"""The rows of a checkpoint on their way into a bundle: filtered, in the bundle's storage type."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from embery import _native
from embery.checkpoint import Checkpoint
from embery.checkpoint.format import Columns
from embery.data.block import F32, U64
from embery.rows import decode_values
from embery.serving.manifest import Filters
from embery.serving.table_file import Rows, TableLayout
from embery.table import Encoding


@dataclass(frozen=True, slots=True)
class TableRows:
    """The rows of one table of a checkpoint that a bundle keeps.

    Args:
        found: the checkpoint; each of its files is verified when it is first read.
        table: name.
        dtype: storage type in the bundle; None keeps that of the table.
        filters: which rows to leave out.
        now_s: seconds since 1970 from which ages count.
    """

    found: Checkpoint
    table: str
    dtype: Encoding | None
    filters: Filters
    now_s: int

    def layout(self) -> TableLayout:
        """Return the layout of the table's file; counts the rows if there are filters."""
        entry = self.found.tables[self.table]
        count = entry.rows
        if self.filters != Filters():
            count = sum(int(self._mask(columns).sum()) for columns in self.found.rows(self.table))
        stored: str = entry.definition["dtype"]
        return TableLayout(self.table, self.dtype or stored, entry.definition["dim"], count)

    def passes(self, watch: Watch, progress: Callable[[int], None]) -> Iterator[Rows]:
        """Yield the rows in the order of the checkpoint, showing them to `watch`."""
        definition = self.found.tables[self.table].definition
        stored, dim = definition["dtype"], definition["dim"]
        for columns in self.found.rows(self.table):
            mask = self._mask(columns)
            keys, values = columns["key"][mask], columns["values"][mask]
            if self.dtype not in (None, stored):
                numbers = np.ascontiguousarray(decode_values(stored, dim, values))
                values = _native.encode_rows(numbers, str(self.dtype))
            watch.take(keys, values)
            progress(len(mask))
            yield keys, values

    def _mask(self, columns: Columns) -> NDArray[np.bool_]:
        return kept(columns, self.filters, self.now_s)


def kept(columns: Columns, filters: Filters, now_s: int) -> NDArray[np.bool_]:
    """Return which rows the filters keep, bool (n,); ages count from `now_s`."""
    mask: NDArray[np.bool_] = columns["count"] >= filters.min_count
    if filters.max_age_s is not None:
        mask &= columns["time_s"].astype(np.int64) >= now_s - filters.max_age_s
    return mask


@dataclass(slots=True, eq=False)
class Watch:
    """Keeps the rows of a few keys as they pass by, as float32.

    Args:
        wanted: uint64, ascending and distinct.
        dtype, dim: of the rows that pass by.
    """

    wanted: U64
    dtype: str
    dim: int
    rows: dict[int, F32] = field(default_factory=dict)

    def take(self, keys: U64, values: NDArray[np.uint8]) -> None:
        """See rows pass by."""
        if not self.wanted.size:
            return
        places = np.minimum(np.searchsorted(self.wanted, keys), self.wanted.size - 1)
        mine = np.flatnonzero(self.wanted[places] == keys)
        if mine.size:
            numbers = decode_values(self.dtype, self.dim, values[mine])
            self.rows.update(zip(keys[mine].tolist(), numbers, strict=True))


class WatchedRows:
    """What an embedding module pulls from in place of a store: the rows that were kept."""

    def __init__(self, watches: Mapping[str, Watch]) -> None:
        self._watches = watches

    def pull_batch(
        self, tables: Sequence[str], keys: Sequence[U64], out: Sequence[F32], *, mode: str
    ) -> None:
        """Fill `out` as a store does in eval mode: an absent row is zeros."""
        assert mode == "eval", mode
        for table, of_table, to in zip(tables, keys, out, strict=True):
            rows = self._watches[table].rows
            for i, key in enumerate(of_table.tolist()):
                to[i] = rows.get(key, 0.0)
