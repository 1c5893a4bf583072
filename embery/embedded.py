"""The store in this process: the tables live in its memory, no server is involved."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from embery import _native, checkpoint
from embery.arrays import as_keys, as_out, as_rows
from embery.checkpoint import Checkpoint
from embery.errors import InvalidArgument, SchemaMismatch, TableNotFound, Unavailable
from embery.rows import describe
from embery.store import F32, U64, PushWatcher, Store
from embery.table import Table
from embery.validation import require_int

THREADS_MAX = 1024


class EmbeddedStore(Store):
    """See `Store`. Asynchronous calls run on one background thread, in order."""

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
        threads = len(os.sched_getaffinity(0)) if threads is None else threads
        require_int("connect: threads", threads, low=1, high=THREADS_MAX)
        self._native = _native.Store(threads, simd)
        self._clock = clock
        self._tables: dict[str, Table] = {}
        self._ids: dict[str, int] = {}
        # Guards the two maps and the executor, and keeps restore and checkpoint apart.
        self._lock = threading.RLock()
        self._executor: ThreadPoolExecutor | None = None
        # Replaced, never changed, so that a push iterates over it without a lock.
        self._watchers: tuple[PushWatcher, ...] = ()
        self._closed = False

    @property
    def url(self) -> str:
        """Return "embedded:"."""
        return "embedded:"

    # -- tables -----------------------------------------------------------------------------------

    def create_table(self, table: Table) -> None:
        """See `Store.create_table`."""
        if not isinstance(table, Table):
            raise InvalidArgument(f"create_table expects an em.Table, got {type(table).__name__}")
        with self._lock:
            self._require_open()
            known = self._tables.get(table.name)
            if known is not None and known.to_dict() != table.to_dict():
                raise SchemaMismatch(_difference(known, table))
            if known is None:
                self._ids[table.name] = self._native.create_table(table.to_dict())
                self._tables[table.name] = table

    def tables(self) -> dict[str, Table]:
        """See `Store.tables`."""
        with self._lock:
            return dict(self._tables)

    def _require_open(self) -> None:
        if self._closed:
            raise Unavailable("the store is closed; connect again")

    def _id(self, table: str) -> int:
        self._require_open()
        try:
            return self._ids[table]
        except KeyError:
            known = ", ".join(sorted(self._ids)) or "none"
            raise TableNotFound(
                f"no table {table!r} in {self.url}; tables: {known}; create it by create_table"
            ) from None

    # -- rows -------------------------------------------------------------------------------------

    def pull(self, table: str, keys: Any, *, train: bool = True, out: F32 | None = None) -> F32:
        """See `Store.pull`."""
        table_id = self._id(table)
        dim = self._tables[table].dim
        key_array = as_keys(keys, f"pull({table!r}): keys")
        if out is None:
            out = _native.empty_rows(key_array.size, dim)
        else:
            as_out(out, f"pull({table!r}): out", key_array.size, dim)
        mode: Literal["train", "eval"] = "train" if train else "eval"
        self._native.pull([table_id], [key_array], [out], mode, self.now_s())
        return out

    def push(self, table: str, keys: Any, grads: Any) -> None:
        """See `Store.push`."""
        self._apply(*self._push_arguments(table, keys, grads), self.now_s())

    def _push_arguments(
        self, table: str, keys: Any, grads: Any
    ) -> tuple[list[str], list[int], list[U64], list[F32]]:
        table_id = self._id(table)
        key_array = as_keys(keys, f"push({table!r}): keys")
        rows = as_rows(grads, f"push({table!r}): grads", key_array.size, self._tables[table].dim)
        return [table], [table_id], [key_array], [rows]

    def _apply(
        self,
        tables: Sequence[str],
        ids: Sequence[int],
        keys: Sequence[U64],
        grads: Sequence[F32],
        now_s: int,
    ) -> None:
        with ExitStack() as watched:
            for watcher in self._watchers:
                watched.enter_context(watcher.pushing(tables, keys))
            self._native.push(ids, keys, grads, now_s)

    def pull_async(self, table: str, keys: Any, *, train: bool = True) -> Future[F32]:
        """See `Store.pull_async`; a wrong argument raises here, not in the future."""
        table_id = self._id(table)
        key_array = as_keys(keys, f"pull_async({table!r}): keys")
        out = _native.empty_rows(key_array.size, self._tables[table].dim)
        mode: Literal["train", "eval"] = "train" if train else "eval"

        def run() -> F32:
            self._native.pull([table_id], [key_array], [out], mode, self.now_s())
            return out

        return self._background().submit(run)

    def push_async(self, table: str, keys: Any, grads: Any) -> Future[None]:
        """See `Store.push_async`; a wrong argument raises here, not in the future."""
        arguments = self._push_arguments(table, keys, grads)
        return self._background().submit(self._apply, *arguments, self.now_s())

    def pull_batch(
        self,
        tables: Sequence[str],
        keys: Sequence[U64],
        out: Sequence[F32],
        *,
        mode: Literal["train", "eval"],
    ) -> None:
        """See `Store.pull_batch`."""
        self._native.pull([self._id(t) for t in tables], keys, out, mode, self.now_s())

    def peek_batch(
        self,
        tables: Sequence[str],
        keys: Sequence[U64],
        out: Sequence[F32],
        absent: Sequence[NDArray[np.uint8]],
    ) -> None:
        """See `Store.peek_batch`."""
        self._native.peek([self._id(t) for t in tables], keys, out, absent, self.now_s())

    def push_batch(self, tables: Sequence[str], keys: Sequence[U64], grads: Sequence[F32]) -> None:
        """See `Store.push_batch`."""
        self._apply(tables, [self._id(t) for t in tables], keys, grads, self.now_s())

    def deletions(self, table: str) -> int:
        """See `Store.deletions`."""
        return self._native.deletions(self._id(table))

    def watch(self, watcher: PushWatcher) -> None:
        """See `Store.watch`."""
        with self._lock:
            self._watchers = (*self._watchers, watcher)

    def unwatch(self, watcher: PushWatcher) -> None:
        """See `Store.unwatch`."""
        with self._lock:
            self._watchers = tuple(w for w in self._watchers if w is not watcher)

    def now_s(self) -> int:
        """See `Store.now_s`; raises `InvalidArgument` if the clock is not within uint32."""
        now = self._clock()
        if not 0 <= now < 2**32:  # NaN too.
            raise InvalidArgument(
                f"the clock of {self.url} must return seconds since 1970, 0 <= t < 2**32; got {now!r}"
            )
        return int(now)

    def _background(self) -> ThreadPoolExecutor:
        with self._lock:
            self._require_open()
            if self._executor is None:
                self._executor = ThreadPoolExecutor(1, thread_name_prefix="embery-store")
            return self._executor

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
        keys = np.array([key], np.uint64)
        columns = self._native.read_rows(self._id(table), keys)
        if not columns["found"][0]:
            return None
        slot = int(_native.slots_of(table, keys)[0])
        return {**describe(self._tables[table], columns, 0), "slot": slot}

    def evict(self, table: str) -> int:
        """See `Store.evict`."""
        return self._native.evict(self._id(table), self.now_s())

    def checkpoint(
        self,
        dest: str | os.PathLike[str],
        *,
        delta: bool = False,
        state: Mapping[str, Any] | None = None,
    ) -> str:
        """See `Store.checkpoint`. Training pulls and pushes of other threads wait meanwhile."""
        if delta:
            raise InvalidArgument(
                "checkpoint(delta=True): the embedded store saves full checkpoints only; leave "
                "delta out"
            )
        with self._lock, self._frozen():
            tables = [_NativeTable(self._native, i, self._tables[n]) for n, i in self._ids.items()]
            return checkpoint.write(dest, tables, state=state).path

    def restore(self, src: str | os.PathLike[str]) -> Checkpoint:
        """See `Store.restore`. Tables that the checkpoint has and the store lacks are created."""
        found = checkpoint.open(src)
        with self._lock:
            self._require_open()
            wanted = {n: Table.from_dict(entry.definition) for n, entry in found.tables.items()}
            strange = sorted(set(self._tables) - set(wanted))
            if strange:
                raise SchemaMismatch(
                    f"{found.path} has no table {strange[0]!r}, which this store has; restore it "
                    "into a store with its own tables"
                )
            for name, table in wanted.items():
                if name in self._tables and self._tables[name].to_dict() != table.to_dict():
                    raise SchemaMismatch(f"{found.path}: {_difference(self._tables[name], table)}")
            for table in wanted.values():
                self.create_table(table)
            with self._frozen():
                sinks = {n: _NativeTable(self._native, self._ids[n], t) for n, t in wanted.items()}
                checkpoint.load(found, sinks)
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

    def close(self) -> None:
        """See `Store.close`."""
        with self._lock:
            executor, self._executor = self._executor, None
            self._closed = True
        if executor is not None:
            executor.shutdown(wait=True)


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

    def export_rows(self, slot_begin: int, slot_end: int) -> dict[str, NDArray[Any]]:
        return self.native.export_rows(self.table_id, slot_begin, slot_end)

    def export_state(self) -> dict[str, Any]:
        return self.native.export_state(self.table_id)

    def clear(self) -> None:
        self.native.clear_table(self.table_id)

    def reserve(self, slot_begin: int, slot_end: int, rows: int) -> None:
        self.native.reserve_rows(self.table_id, slot_begin, slot_end, rows)

    def import_rows(self, columns: Mapping[str, NDArray[Any]]) -> None:
        self.native.import_rows(self.table_id, dict(columns))

    def import_state(self, state: Any) -> None:
        self.native.import_state(self.table_id, state)


def _difference(known: Table, wanted: Table) -> str:
    old, new = known.to_dict(), wanted.to_dict()
    fields = [
        f"{field}: it has {old[field]!r}, this one {new[field]!r}"
        for field in old
        if old[field] != new[field]
    ]
    return (
        f"table {known.name!r} exists with another definition ({'; '.join(fields)}); "
        "use the same definition, or another name"
    )
