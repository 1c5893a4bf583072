"""What every store does before and after rows move: arguments, order, watchers, time."""

from __future__ import annotations

import os
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from embery import _native
from embery.arrays import as_keys, as_out, as_rows
from embery.checkpoint.format import ROW_DTYPES, STATE, VALUES
from embery.errors import InvalidArgument, SchemaMismatch, TableNotFound, Unavailable
from embery.optim import FTRL
from embery.rows import describe
from embery.saving import Saver
from embery.store import F32, U64, BatchIdentity, PushWatcher, Store
from embery.table import Table, require_same
from embery.validation import require_int

PullMode = Literal["train", "eval"]

THREADS_MAX = 1024


def require_threads(threads: int | None) -> int:
    """Return how many threads share the work of a call: by default the usable processors."""
    threads = len(os.sched_getaffinity(0)) if threads is None else threads
    require_int("connect: threads", threads, low=1, high=THREADS_MAX)
    return threads


class RowStore(Saver, Store):
    """The row methods of a store, over three that move rows.

    Asynchronous calls run on one background thread, in order.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        super().__init__()
        self._clock = clock
        self._tables: dict[str, Table] = {}
        # Guards the tables and the executor, and keeps whole-store operations apart.
        self._lock = threading.RLock()
        self._executor: ThreadPoolExecutor | None = None
        # Replaced, never changed, so that a push iterates over it without a lock.
        self._watchers: tuple[PushWatcher, ...] = ()
        self._closed = False

    # -- what moves rows --------------------------------------------------------------------------

    @abstractmethod
    def _pull_rows(
        self, tables: Sequence[str], keys: Sequence[U64], out: Sequence[F32], mode: PullMode
    ) -> None:
        """Fill `out[i]` with the rows of `keys[i]` of `tables[i]`."""

    @abstractmethod
    def _peek_rows(
        self,
        tables: Sequence[str],
        keys: Sequence[U64],
        out: Sequence[F32],
        absent: Sequence[NDArray[np.uint8]],
    ) -> None:
        """See `Store.peek_batch`."""

    @abstractmethod
    def _push_rows(
        self,
        tables: Sequence[str],
        keys: Sequence[U64],
        grads: Sequence[F32],
        now_s: int,
        batch: BatchIdentity | None,
    ) -> None:
        """Apply the gradients, of `batch` if it is given; returns once they are."""

    @abstractmethod
    def _import_rows(self, table: str, columns: dict[str, NDArray[Any]]) -> None:
        """Set rows to `columns` (embery/checkpoint/columns.py), which have no LSN: as changes."""

    # -- tables -----------------------------------------------------------------------------------

    def tables(self) -> dict[str, Table]:
        """See `Store.tables`."""
        with self._lock:
            return dict(self._tables)

    def _require_open(self) -> None:
        if self._closed:
            raise Unavailable("the store is closed; connect again")

    def _table(self, name: str) -> Table:
        self._require_open()
        try:
            return self._tables[name]
        except KeyError:
            known = ", ".join(sorted(self._tables)) or "none"
            raise TableNotFound(
                f"no table {name!r} in {self.url}; tables: {known}; create it by create_table"
            ) from None

    # -- rows -------------------------------------------------------------------------------------

    def pull(self, table: str, keys: Any, *, train: bool = True, out: F32 | None = None) -> F32:
        """See `Store.pull`."""
        dim = self._table(table).dim
        key_array = as_keys(keys, f"pull({table!r}): keys")
        if out is None:
            out = _native.empty_rows(key_array.size, dim)
        else:
            as_out(out, f"pull({table!r}): out", key_array.size, dim)
        self._pull_rows([table], [key_array], [out], "train" if train else "eval")
        return out

    def push(self, table: str, keys: Any, grads: Any) -> None:
        """See `Store.push`."""
        self._apply(*self._push_arguments(table, keys, grads), self.now_s())

    def put_rows(self, table: str, keys: Any, rows: Any) -> None:
        """See `Store.put_rows`."""
        definition = self._table(table)
        optimizer, where = definition.optimizer, f"put_rows({table!r})"
        if definition.dtype != "float32" or isinstance(optimizer, FTRL):
            raise InvalidArgument(
                f"{where}: expected a table of float32, of any optimizer but FTRL, got "
                f"{definition.dtype} and {optimizer}"
            )
        key_array = as_keys(keys, f"{where}: keys")
        values = as_rows(rows, f"{where}: rows", key_array.size, definition.dim)
        if np.unique(key_array).size != key_array.size:
            raise InvalidArgument(f"{where}: keys must be distinct; each row has one value")
        shape = (key_array.size, optimizer.state_floats(definition.dim))
        columns: dict[str, NDArray[Any]] = {
            name: np.zeros(key_array.size, dtype)
            for name, dtype in ROW_DTYPES.items()
            if name != "lsn"
        }
        columns["key"] = key_array
        columns["time_s"][:] = self.now_s()
        columns[VALUES] = np.ascontiguousarray(values).view(np.uint8)
        columns[STATE] = np.full(shape, getattr(optimizer, "initial_accumulator", 0.0), np.float32)
        self._import_rows(table, columns)
        for watcher in self._watchers:
            watcher.rows_replaced()

    def _push_arguments(
        self, table: str, keys: Any, grads: Any
    ) -> tuple[list[str], list[U64], list[F32]]:
        dim = self._table(table).dim
        key_array = as_keys(keys, f"push({table!r}): keys")
        rows = as_rows(grads, f"push({table!r}): grads", key_array.size, dim)
        return [table], [key_array], [rows]

    def _apply(
        self,
        tables: Sequence[str],
        keys: Sequence[U64],
        grads: Sequence[F32],
        now_s: int,
        batch: BatchIdentity | None = None,
    ) -> None:
        with ExitStack() as watched:
            for watcher in self._watchers:
                watched.enter_context(watcher.pushing(tables, keys))
            self._push_rows(tables, keys, grads, now_s, batch)

    def pull_async(self, table: str, keys: Any, *, train: bool = True) -> Future[F32]:
        """See `Store.pull_async`; a wrong argument raises here, not in the future."""
        dim = self._table(table).dim
        key_array = as_keys(keys, f"pull_async({table!r}): keys")
        out = _native.empty_rows(key_array.size, dim)

        def run() -> F32:
            self._pull_rows([table], [key_array], [out], "train" if train else "eval")
            return out

        return self._background().submit(run)

    def push_async(self, table: str, keys: Any, grads: Any) -> Future[None]:
        """See `Store.push_async`; a wrong argument raises here, not in the future."""
        arguments = self._push_arguments(table, keys, grads)
        return self._background().submit(self._apply, *arguments, self.now_s())

    def pull_batch(
        self, tables: Sequence[str], keys: Sequence[U64], out: Sequence[F32], *, mode: PullMode
    ) -> None:
        """See `Store.pull_batch`."""
        for table in tables:
            self._table(table)
        self._pull_rows(tables, keys, out, mode)

    def peek_batch(
        self,
        tables: Sequence[str],
        keys: Sequence[U64],
        out: Sequence[F32],
        absent: Sequence[NDArray[np.uint8]],
    ) -> None:
        """See `Store.peek_batch`."""
        for table in tables:
            self._table(table)
        self._peek_rows(tables, keys, out, absent)

    def push_batch(
        self,
        tables: Sequence[str],
        keys: Sequence[U64],
        grads: Sequence[F32],
        *,
        batch: BatchIdentity | None = None,
    ) -> None:
        """See `Store.push_batch`."""
        for table in tables:
            self._table(table)
        self._apply(tables, keys, grads, self.now_s(), batch)

    # -- watchers, time, background ---------------------------------------------------------------

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
                f"the clock of {self.url} must return seconds since 1970, 0 <= t < 2**32; "
                f"got {now!r}"
            )
        return int(now)

    def _background(self) -> ThreadPoolExecutor:
        with self._lock:
            self._require_open()
            if self._executor is None:
                self._executor = ThreadPoolExecutor(1, thread_name_prefix="embery-store")
            return self._executor

    def close(self) -> None:
        """See `Store.close`."""
        self._close_saver()
        with self._lock:
            executor, self._executor = self._executor, None
            self._closed = True
        if executor is not None:
            executor.shutdown(wait=True)


def require_restorable(
    path: str, wanted: Mapping[str, Table], present: Mapping[str, Table]
) -> None:
    """Raise `SchemaMismatch` unless a checkpoint has a store's tables as the store has them."""
    strange = sorted(set(present) - set(wanted))
    if strange:
        raise SchemaMismatch(
            f"{path} has no table {strange[0]!r}, which this store has; restore it into a store "
            "with its own tables"
        )
    for name, table in wanted.items():
        if name in present:
            require_same(present[name], table, where=f"{path}: ")


def inspect_row(
    store: _native.Store, table_id: int, table: Table, key: int
) -> dict[str, Any] | None:
    """Return all there is to know of one row of a native store; None if it does not exist."""
    keys = np.array([key], np.uint64)
    columns = store.read_rows(table_id, keys)
    if not columns["found"][0]:
        return None
    return {**describe(table, columns, 0), "slot": int(_native.slots_of(table.name, keys)[0])}
