"""Pauses of all workers between two pushes, for the moment in which servers begin a cut.

A push goes to several servers, and is one change to whoever made it. While no push is under way
anywhere, what all servers have is of the same pushes.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Mapping

from embery.coordinator.state import ClusterOptions, Worker
from embery.errors import DeadlineExceeded, Unavailable

# A worker goes on by itself after so long, whatever the coordinator says.
PAUSE_SECONDS_MAX = 5.0


class Pauses:
    """At most one pause is in force. Thread-safe: guarded by the cluster's lock.

    Args:
        changed: lock of the cluster, and what those who wait for a change wait on.
        workers: returns all workers by client number; called under the lock.
        options: of the cluster.
    """

    def __init__(
        self,
        changed: threading.Condition,
        workers: Callable[[], Mapping[int, Worker]],
        options: ClusterOptions,
    ) -> None:
        self._changed = changed
        self._workers = workers
        self._options = options
        # 0 where there is none. Drawn, so that no other coordinator has had the same.
        self._pause = 0
        self._ends_s = 0.0
        self._paused: set[str] = set()

    def begin(self, wait_s: float) -> int:
        """Pause all workers; return the pause, which ends `wait_s` from now at the latest.

        One that is lost is not waited for: its lease has ended.

        Raises:
            DeadlineExceeded: a worker is still pushing; all go on.
        """
        ends_s = time.monotonic() + min(wait_s, PAUSE_SECONDS_MAX)
        with self._changed:
            while self._in_force():
                self._wait_until(ends_s, "another checkpoint has paused the workers")
            self._pause, self._ends_s = secrets.randbits(63) | 1, ends_s
            self._paused = set()
            self._changed.notify_all()
            pause = self._pause
            try:
                while pushing := self._pushing():
                    names = ", ".join(f"worker {w.rank} (client {w.client})" for w in pushing)
                    self._wait_until(ends_s, f"still pushing: {names}")
            except DeadlineExceeded:
                self.end(pause)
                raise
            return pause

    def end(self, pause: int) -> bool:
        """Let the workers go on; return whether they were paused until now."""
        with self._changed:
            held = self._in_force() == pause
            if self._pause == pause:
                self._pause = 0
                self._changed.notify_all()
            return held

    def wait(self, incarnation: str, pause: int, wait_s: float) -> int:
        """Note that a worker keeps `pause` (0: none); return the one in force once it is another.

        Raises:
            Unavailable: the worker is not known; it registers again with its next heartbeat.
        """
        deadline = time.monotonic() + wait_s
        with self._changed:
            while True:
                worker = next(
                    (w for w in self._workers().values() if w.incarnation == incarnation), None
                )
                if worker is None:
                    raise Unavailable("pause: this worker is not a member now")
                in_force = self._in_force()
                left_s = deadline - time.monotonic()
                if in_force != pause or left_s <= 0 or worker.state == "left":
                    return in_force
                if pause and incarnation not in self._paused:
                    self._paused.add(incarnation)
                    self._changed.notify_all()
                if pause:
                    left_s = min(left_s, self._ends_s - time.monotonic())
                self._changed.wait(max(0.0, left_s))

    def wait_over(self) -> None:
        """Wait until no pause is in force: one who comes now could push; called under the lock."""
        while self._in_force():
            self._changed.wait(max(0.0, self._ends_s - time.monotonic()))

    def _in_force(self) -> int:
        return self._pause if time.monotonic() < self._ends_s else 0

    def _pushing(self) -> list[Worker]:
        """Return the workers that may push, and have not said that they pause."""
        now_s, lease_s = time.monotonic(), self._options.lease_s
        return [
            w
            for w in self._workers().values()
            if w.incarnation not in self._paused
            and (w.state == "live" or (w.state == "registered" and now_s - w.heard_s < lease_s))
        ]

    def _wait_until(self, ends_s: float, why: str) -> None:
        left_s = ends_s - time.monotonic()
        if left_s <= 0:
            raise DeadlineExceeded(
                f"workers did not all come to the end of a push within {PAUSE_SECONDS_MAX:g} s "
                f"({why}); nothing was saved, and training goes on: try again"
            )
        # That a lease has ended is not told to those who wait.
        self._changed.wait(min(left_s, self._options.heartbeat_s))
