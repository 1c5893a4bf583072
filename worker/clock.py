"""The bound between workers that do not wait for each other: stale-synchronous parallelism.

A worker's clock is the number of its batches whose pushes are applied. A batch may be begun while
at most so many batches lie between it and the clock of the slowest worker that is there (Ho et al.,
"More effective distributed ML via a stale synchronous parallel parameter server", NIPS 2013). The
coordinator compares the clocks, which come with the heartbeats; it is asked to wait only by a
worker that is too far ahead.
"""

from __future__ import annotations

import threading
import time

from embery.errors import DeadlineExceeded, Unavailable
from embery.rpc.membership import Membership

# So long the coordinator may be away, or another worker at one batch.
PATIENCE_SECONDS = 1800.0
_WAIT_SECONDS = 0.5


class BatchClock:
    """The clock of one worker; it never goes back. Thread-safe.

    Batches are begun in one thread and committed in their order, perhaps in another.

    Args:
        membership: of the worker.
        group: of the workers that are bound to each other.
        bound: how many batches one may lie before the slowest.
    """

    def __init__(self, membership: Membership, *, group: str, bound: int) -> None:
        self._membership = membership
        self._group, self._bound = group, bound
        # Others hear of a commit at once where they may wait for it, else a few at a time.
        self._hurry_every = max(1, bound // 4)
        self._lock = threading.Lock()
        # Guarded by _lock.
        self._begun = self._committed = 0
        self._joined = False
        self.staleness = self.staleness_seen = 0

    def begin(self, closed: threading.Event) -> None:
        """Wait until the next batch is within the bound, and count it as begun.

        Returns without counting it when `closed` is set.

        Raises:
            DeadlineExceeded: the slowest worker stands still, or the coordinator is away.
        """
        if not self._joined:
            self._join()
        number = self._begun
        slowest = self._membership.slowest
        deadline = time.monotonic() + PATIENCE_SECONDS
        while slowest is None or slowest < number - self._bound:
            if closed.is_set():
                return
            if time.monotonic() > deadline:
                raise DeadlineExceeded(
                    f"the slowest worker has done {slowest} batches and this one {number}, at most "
                    f"{self._bound} more are allowed, and that did not change within "
                    f"{PATIENCE_SECONDS:g} s; see embery status"
                )
            slowest = self._ask(number - self._bound, _WAIT_SECONDS)
            if slowest is None:
                closed.wait(_WAIT_SECONDS)  # The coordinator is away, or does not know all yet.
        with self._lock:
            self._begun += 1
            self.staleness = max(0, number - slowest)
            self.staleness_seen = max(self.staleness_seen, self.staleness)

    def commit(self) -> None:
        """Count the oldest batch that was begun as applied."""
        with self._lock:
            self._committed += 1
            if not self._joined:
                return
            hurry = self._committed % self._hurry_every == 0
            self._membership.set_clock(self._committed, self._group, hurry=hurry)

    def leave(self) -> None:
        """Take no batches for now: nobody waits for this worker.

        Requires: those that were begun are committed, or never will be.
        """
        with self._lock:
            self._begun = self._committed
            if self._joined:
                self._joined = False
                self._membership.set_clock(None, self._group, hurry=True)

    def _join(self) -> None:
        """Begin where the slowest is, or where this worker was, if that is further."""
        with self._lock:
            # Not among them yet: the others would wait for a clock that is about to be set.
            self._membership.set_clock(None, self._group, hurry=False)
        others = self._ask(0, 0.0)
        with self._lock:
            self._begun = self._committed = max(self._committed, others or 0)
            self._joined = True
            self._membership.set_clock(self._committed, self._group, hurry=True)

    def _ask(self, at_least: int, wait_s: float) -> int | None:
        try:
            return self._membership.wait_clock(max(0, at_least), wait_s)
        except (Unavailable, DeadlineExceeded):
            return None
