"""The store in this process: the tables live in its memory, no server is involved."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embery import _native, checkpoint
from embery.checkpoint import Checkpoint, TableSource
from embery.errors import InvalidArgument
from embery.row_store import (
    PullMode,
    RowStore,
    inspect_row,
    require_restorable,
    require_threads,
)
from embery.saving import Cut, cut_bytes_max
from embery.store import F32, U64, BatchIdentity
from embery.table import Table, require_same
from embery.validation import require_int


class EmbeddedStore(RowStore):
    """See `Store`."""

    def __init__(
        self,
        url: str = "embedded:",
        *,
        threads: int | None = None,
        simd: str = "auto",
        clock: Callable[[], float] = time.time,
    ) -> None:
        if url != "embedded:":
            raise InvalidArgument(
                f"connect({url!r}): an embedded store has no address; use 'embedded:' and pass "
                "options as arguments"
            )
        super().__init__(clock)
        self._native = _native.Store(require_threads(threads), simd)
        self._ids: dict[str, int] = {}
        # Of the checkpoint that the tables were last saved in or restored from.
        self._seal: str | None = None

    @property
    def url(self) -> str:
        """Return "embedded:"."""
        return "embedded:"

    def create_table(self, table: Table) -> None:
        """See `Store.create_table`."""
        if not isinstance(table, Table):
            raise InvalidArgument(f"create_table expects an em.Table, got {type(table).__name__}")
        with self._lock:
            self._require_open()
            known = self._tables.get(table.name)
            if known is not None:
                require_same(known, table)
            else:
                self._ids[table.name] = self._native.create_table(table.to_dict())
                self._tables[table.name] = table

    def _id(self, table: str) -> int:
        self._table(table)
        return self._ids[table]

    # -- rows -------------------------------------------------------------------------------------

    def _pull_rows(
        self, tables: Sequence[str], keys: Sequence[U64], out: Sequence[F32], mode: PullMode
    ) -> None:
        self._native.pull([self._ids[t] for t in tables], keys, out, mode, self.now_s())

    def _peek_rows(
        self,
        tables: Sequence[str],
        keys: Sequence[U64],
        out: Sequence[F32],
        absent: Sequence[NDArray[np.uint8]],
    ) -> None:
        self._native.peek([self._ids[t] for t in tables], keys, out, absent, self.now_s())

    def _push_rows(
        self,
        tables: Sequence[str],
        keys: Sequence[U64],
        grads: Sequence[F32],
        now_s: int,
        batch: BatchIdentity | None,
    ) -> None:
        self._native.push([self._ids[t] for t in tables], keys, grads, now_s)

    def _import_rows(self, table: str, columns: dict[str, NDArray[Any]]) -> None:
        self._native.import_rows(self._ids[table], columns)

    def deletions(self, table: str) -> int:
        """See `Store.deletions`."""
        return self._native.deletions(self._id(table))

    # -- whole store ------------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        """Return {"tables": {name: counters}, "servers": {"embedded": totals}}.

        Counters of a table: rows, bytes (records and index), step, admitted, rejected, evicted,
        deleted, nonfinite, updates, candidates, candidates_forgotten, tombstones, tombstones_lost.
        """
        with self._lock:
            self._require_open()
            tables = {name: self._native.stats(i) for name, i in self._ids.items()}
        totals = {"tables": len(tables), "threads": self._native.threads, "simd": self._native.simd}
        for field in ("rows", "bytes"):
            totals[field] = sum(stats[field] for stats in tables.values())
        return {"tables": tables, "servers": {"embedded": totals}}

    def inspect(self, table: str, key: int) -> dict[str, Any] | None:
        """See `Store.inspect`."""
        require_int(f"inspect({table!r}): key", key, low=0, high=2**64 - 1)
        return inspect_row(self._native, self._id(table), self._tables[table], key)

    def evict(self, table: str) -> int:
        """See `Store.evict`."""
        return self._native.evict(self._id(table), self.now_s())

    @contextmanager
    def _cut(self) -> Iterator[Cut]:
        with self._lock:
            self._require_open()
            sources: list[TableSource] = [
                _NativeTable(self._native, i, self._tables[name]) for name, i in self._ids.items()
            ]
            rows_bytes = sum(self._native.stats(i)["bytes"] for i in self._ids.values())
            self._native.begin_cut(cut_bytes_max(rows_bytes))
            seal = self._seal
        try:
            yield Cut(sources, seal, self._note_saved)
        finally:
            self._native.end_cut()

    def _note_saved(self, seal: str) -> None:
        self._seal = seal

    def restore(
        self, src: str | os.PathLike[str], *, progress: Callable[[int], None] | None = None
    ) -> Checkpoint:
        """See `Store.restore`. Tables that the checkpoint has and the store lacks are created."""
        found = checkpoint.open(src, progress=progress)
        with self._saving, self._lock:
            self._require_open()
            wanted = {n: Table.from_dict(entry.definition) for n, entry in found.tables.items()}
            require_restorable(found.path, wanted, self._tables)
            for table in wanted.values():
                self.create_table(table)
            with self._frozen():
                sinks = {n: _NativeTable(self._native, self._ids[n], t) for n, t in wanted.items()}
                self._seal = None
                checkpoint.load(found, sinks, progress=progress)
                self._seal = found.seal
            for watcher in self._watchers:
                watcher.rows_replaced()
        return found

    @contextmanager
    def _frozen(self) -> Iterator[None]:
        self._require_open()
        self._native.freeze()
        try:
            yield
        finally:
            self._native.thaw()


@dataclass(frozen=True, slots=True)
class _NativeTable:
    """A table as checkpoints save and load it: a `TableSource` and a `TableSink`."""

    native: _native.Store
    table_id: int
    table: Table

    @property
    def definition(self) -> dict[str, Any]:
        return self.table.to_dict()

    @property
    def value_bytes(self) -> int:
        return self.native.row_layout(self.table_id)[0]

    @property
    def state_floats(self) -> int:
        return self.native.row_layout(self.table_id)[1]

    @property
    def row_count(self) -> int:
        return self.native.stats(self.table_id)["rows"]

    def export_rows(
        self, slot_begin: int, slot_end: int, since: U64 | None
    ) -> dict[str, NDArray[Any]]:
        return self.native.export_cut_rows(self.table_id, slot_begin, slot_end, since)

    def export_state(self, since: U64 | None) -> dict[str, Any]:
        return self.native.export_cut_state(self.table_id, since)

    def clear(self) -> None:
        self.native.clear_table(self.table_id)

    def reserve(self, slot_begin: int, slot_end: int, rows: int) -> None:
        self.native.reserve_rows(self.table_id, slot_begin, slot_end, rows)

    def import_rows(self, columns: Mapping[str, NDArray[Any]]) -> None:
        self.native.import_rows(self.table_id, dict(columns))

    def import_state(self, state: Any) -> None:
        self.native.import_state(self.table_id, state)
