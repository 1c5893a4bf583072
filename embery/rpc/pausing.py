"""Pauses of a worker between two pushes, when the coordinator asks all workers for one."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from embery.errors import EmberyError, Unavailable
from embery.rpc.channel import WAIT_GRACE_S, Channel
from embery.rpc.v1 import coordinator_pb2 as c

log = logging.getLogger(__name__)

# A pause is over by then, whatever else happens.
PAUSE_SECONDS_MAX = 5.0
WAIT_SECONDS = 10.0
RETRY_SECONDS = 1.0
STOP_SECONDS = 2.0


class PauseCalls:
    """The calls of `CoordinatorClient` that are about pauses."""

    _channel: Channel
    _stub: Any
    _timeout_s: float

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Have all workers pause between two pushes while the context lasts.

        Raises:
            DeadlineExceeded: one of them did not come to the end of its push.
            Unavailable: they went on before the context ended.
        """
        request = c.BeginPauseRequest(wait_ms=round(PAUSE_SECONDS_MAX * 1000))
        pause = self._channel.call(
            self._stub.BeginPause, request, PAUSE_SECONDS_MAX + WAIT_GRACE_S, what="pause"
        ).pause
        held = False
        try:
            yield
        finally:
            held = self._end_pause(pause)
        if not held:
            raise Unavailable(
                f"the workers went on after {PAUSE_SECONDS_MAX:g} s, before all servers had begun "
                "to save; nothing was saved: try again"
            )

    def _end_pause(self, pause: int) -> bool:
        request = c.EndPauseRequest(pause=pause)
        return bool(
            self._channel.call(
                self._stub.EndPause, request, self._timeout_s, what="end of a pause"
            ).held
        )

    def wait_pause(self, incarnation: str, pause: int, wait_s: float) -> int:
        """Say that a worker keeps `pause` (0: none); return the one in force once it is another."""
        request = c.WaitPauseRequest(
            incarnation=incarnation, pause=pause, wait_ms=round(wait_s * 1000)
        )
        return int(
            self._channel.call(
                self._stub.WaitPause, request, wait_s + WAIT_GRACE_S, what="wait for a pause"
            ).pause
        )


class PushGate:
    """Lets pushes through while it is open. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        # Guarded by _changed.
        self._under_way = 0
        self._opens_s = 0.0

    @contextmanager
    def push(self) -> Iterator[None]:
        """Wait until the gate is open, which takes a moment; it stays so for this push."""
        with self._changed:
            while (left_s := self._opens_s - time.monotonic()) > 0:
                self._changed.wait(left_s)
            self._under_way += 1
        try:
            yield
        finally:
            with self._changed:
                self._under_way -= 1
                self._changed.notify_all()

    def close(self) -> bool:
        """Hold back new pushes, and wait until none is under way; return whether that is so.

        It opens by itself after `PAUSE_SECONDS_MAX`.
        """
        with self._changed:
            self._opens_s = time.monotonic() + PAUSE_SECONDS_MAX
            return self._changed.wait_for(lambda: not self._under_way, PAUSE_SECONDS_MAX)

    def open(self) -> None:
        """Let pushes through."""
        with self._changed:
            self._opens_s = 0.0
            self._changed.notify_all()


class PauseWatch:
    """A thread that closes and opens a gate as the coordinator says.

    Args:
        wait_pause: see `PauseCalls.wait_pause`, without the incarnation.
    """

    def __init__(self, wait_pause: Callable[[int, float], int], gate: PushGate) -> None:
        self._wait_pause = wait_pause
        self._gate = gate
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="embery-pauses", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; the worker has left, so that the coordinator has answered."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        kept = 0
        while not self._stopping.is_set():
            try:
                pause = self._wait_pause(kept, WAIT_SECONDS)
            except EmberyError as error:
                log.debug("no word of pauses: %s", error)
                pause = 0
                self._stopping.wait(RETRY_SECONDS)
            if pause != kept:
                self._gate.open()
                kept = pause if pause and self._gate.close() else 0
        self._gate.open()
