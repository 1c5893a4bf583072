"""The clocks of workers that are bound to each other, and waiting for the slowest of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from embery.coordinator.decisions import slowest
from embery.coordinator.state import ClusterOptions, ClusterState, Worker
from embery.errors import Unavailable
from embery.rpc.records import Progress


class Clocks:
    """Thread-safe.

    Args:
        changed: guards the state, and is notified when a clock or who counts has changed.
        worker_of: finds a worker by its incarnation; called under the lock.
        state: returns the present state.
        hear: notes that a worker is there and how far it is; returns whether it is known.
        options: of the cluster.
    """

    def __init__(
        self,
        changed: threading.Condition,
        worker_of: Callable[[str], Worker | None],
        state: Callable[[], ClusterState],
        hear: Callable[[str, Progress], bool],
        options: ClusterOptions,
    ) -> None:
        self._changed, self._worker_of, self._state = changed, worker_of, state
        self._hear, self._options = hear, options
        self._is_closed = False

    def close(self) -> None:
        """End all waits."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def slowest(self, incarnation: str) -> int | None:
        """Return the clock of the slowest worker of a worker's group, if it is known."""
        with self._changed:
            worker = self._worker_of(incarnation)
            if worker is None or worker.progress.clock is None:
                return None
            return self._of(worker.progress.group)

    def wait(
        self, incarnation: str, progress: Progress, at_least: int, wait_s: float
    ) -> int | None:
        """Wait until the slowest of a worker's group has come so far; return how far it is.

        Raises:
            Unavailable: the worker is not known; it registers again with its next heartbeat.
        """
        if not self._hear(incarnation, progress):
            raise Unavailable("clock: this worker is not a member now; its heartbeat says so first")
        deadline = time.monotonic() + wait_s
        with self._changed:
            while True:
                found = self._of(progress.group)
                left_s = deadline - time.monotonic()
                has_come = found is not None and found >= at_least
                if left_s <= 0 or self._is_closed or has_come:
                    return found
                self._changed.wait(left_s)

    def _of(self, group: str) -> int | None:
        return slowest(time.monotonic(), self._state(), group, self._options)[0]
