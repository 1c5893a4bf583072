"""Which keys were pushed since a moment: what look-ahead must know to hand over exact rows."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embery import _native
from embery._native import BatchPlan, RecentPushes, StaleRows
from embery.store import U64

# 8 MiB of stamps: tells the keys of several pushes of some 100,000 keys apart.
_STAMPS_LOG2 = 20


@dataclass(frozen=True, slots=True)
class Moment:
    """A point in the history of a store: every push up to `pushes` is applied."""

    pushes: int
    restores: int


class PushHistory:
    """The pushes of one store, as its `watch` tells them. A `PushWatcher`.

    Thread-safe. A push counts for a reader if it was not complete when the reading began, whether
    or not the reader saw its effect.
    """

    def __init__(self) -> None:
        self._recent = RecentPushes(_STAMPS_LOG2)
        # A cache: threads that fill an entry at once fill in the same value.
        self._salts: dict[str, int] = {}
        self._lock = threading.Lock()
        # Guarded by _lock.
        self._begun = 0
        self._unfinished: set[int] = set()
        self._restores = 0

    @contextmanager
    def pushing(self, tables: Sequence[str], keys: Sequence[U64]) -> Iterator[None]:
        """Note a push to `keys` before its first row changes, and that it ended."""
        with self._lock:
            self._begun += 1
            number = self._begun
            self._unfinished.add(number)
        try:
            self._recent.record(self.salts(tables), keys, number)
            yield
        finally:
            with self._lock:
                self._unfinished.discard(number)

    def rows_replaced(self) -> None:
        """Note that all rows may have changed."""
        with self._lock:
            self._restores += 1

    def now(self) -> Moment:
        """Return the moment before the first push that is not complete."""
        with self._lock:
            complete = min(self._unfinished) - 1 if self._unfinished else self._begun
            return Moment(complete, self._restores)

    def salts(self, tables: Sequence[str]) -> list[int]:
        """Return what tells the keys of one table from those of another."""
        for table in tables:
            if table not in self._salts:
                self._salts[table] = _native.table_salt(table)
        return [self._salts[table] for table in tables]

    def find_stale(
        self,
        plan: BatchPlan,
        tables: Sequence[str],
        absent: NDArray[np.uint8],
        *,
        since: Moment,
        distrusted: Sequence[bool],
    ) -> StaleRows:
        """Return the rows of `plan` that were absent or may have changed since they were read.

        Args:
            plan: of the batch.
            tables: names of its tables.
            absent: one flag a row, set where it did not exist when it was read.
            since: the moment before they were read.
            distrusted: one flag a table, set where all its rows count as changed.
        """
        with self._lock:
            restored = self._restores != since.restores
        flags = [restored or flag for flag in distrusted]
        return self._recent.find_stale(plan, absent, self.salts(tables), flags, since.pushes)
