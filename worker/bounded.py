"""Pushes in the background, and reading ahead that stays within a bound of staleness."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from torch import Tensor

from embery._native import BatchPlan
from embery.jagged import KeyedJaggedTensor
from embery.worker.embedding import EmbeddingModule, Mode, ReadAhead, pull_rows


class PushQueue:
    """Applies the pushes of batch after batch in a thread of its own, in their order.

    Thread-safe. At most `unapplied_max` batches wait; `submit` blocks for room. The error of a push
    is raised by every call after it, and nothing that follows it is applied.
    """

    def __init__(self, *, unapplied_max: int) -> None:
        self._unapplied_max = unapplied_max
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="embery-push")
        self._changed = threading.Condition()
        # Guarded by _changed.
        self._submitted = 0
        self._applied = 0
        self._error: BaseException | None = None

    @property
    def submitted(self) -> int:
        """Return how many batches were pushed, applied or not."""
        return self._submitted

    @property
    def unapplied(self) -> int:
        """Return the batches that were pushed and are not applied yet."""
        return self._submitted - self._applied

    def submit(self, work: Sequence[Callable[[], object]]) -> None:
        """Queue the pushes of one batch, and what follows them; return when there is room."""
        with self._changed:
            self._wait_applied(self._submitted + 1 - self._unapplied_max, _never)
            self._submitted += 1
        self._executor.submit(self._apply, work)

    def wait_applied(self, count: int, *, cancelled: Callable[[], bool]) -> int:
        """Wait until the pushes of `count` batches are applied; return of how many they are.

        Returns early when `cancelled` turns true; `wake` has it looked at again.
        """
        with self._changed:
            self._wait_applied(count, cancelled)
            return self._applied

    def wake(self) -> None:
        """Have those who wait look at their `cancelled`."""
        with self._changed:
            self._changed.notify_all()

    def drain(self) -> None:
        """Wait until all that was submitted is applied."""
        with self._changed:
            self._wait_applied(self._submitted, _never)

    def close(self) -> None:
        """Apply what is queued and end the thread."""
        self._executor.shutdown(wait=True)

    def _wait_applied(self, count: int, cancelled: Callable[[], bool]) -> None:
        # Requires _changed.
        self._changed.wait_for(lambda: self._applied >= count or self._error or cancelled())
        if self._error is not None:
            raise self._error

    def _apply(self, work: Sequence[Callable[[], object]]) -> None:
        if self._error is not None:
            return
        try:
            for part in work:
                part()
        except BaseException as error:
            # Raised again in the thread that submits, waits or drains next.
            with self._changed:
                self._error = error
                self._changed.notify_all()
            return
        with self._changed:
            self._applied += 1
            self._changed.notify_all()


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class PulledRows:
    """Rows as a training pull read them; they are handed over as they are."""

    plan: BatchPlan
    rows: Tensor

    def take(self, mode: Mode) -> Tensor:
        """Return the rows."""
        return self.rows


class BoundedReader:
    """Pulls for training as soon as the staleness of the batch is within the bound.

    `staleness_seen` is the largest staleness of a batch so far; the thread that reads writes it.
    `closed` is set when nothing more will be read.
    """

    def __init__(self, queue: PushQueue, *, staleness_max: int) -> None:
        self._queue = queue
        self._staleness_max = staleness_max
        # Every batch before this reader's first is pushed already.
        self._pushes_before = queue.submitted
        self.closed = threading.Event()
        self.staleness_seen = 0

    def begin_batch(self, number: int) -> None:
        """Wait until at most `staleness_max` earlier batches are not applied."""
        earlier = self._pushes_before + number
        applied = self._queue.wait_applied(
            earlier - self._staleness_max, cancelled=self.closed.is_set
        )
        if not self.closed.is_set():
            self.staleness_seen = max(self.staleness_seen, earlier - applied)

    def read(self, module: EmbeddingModule, kjt: KeyedJaggedTensor) -> ReadAhead:
        """Pull for training: absent keys are inserted now."""
        plan = module.plan(kjt)
        return PulledRows(plan, pull_rows(module, plan, "train"))

    def close(self) -> None:
        """End a wait of `begin_batch`."""
        self.closed.set()
        self._queue.wake()
