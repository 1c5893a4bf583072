"""How a member of a cluster says that it is there."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from embery.errors import EmberyError
from embery.rpc.client import Beat, CoordinatorClient
from embery.rpc.records import Progress

log = logging.getLogger(__name__)

TIMEOUT_S = 1.0


class Heartbeat:
    """Tells the coordinator that a member is there, from `start` until `stop`, whatever happens.

    Args:
        coordinator: whom to tell.
        incarnation: by which the member registered.
        every_s: how often.
        answered: called with each answer; an error of it counts as one of the heartbeat.
        progress: returns how far a worker is; None for a server.
    """

    def __init__(
        self,
        coordinator: CoordinatorClient,
        incarnation: str,
        every_s: float,
        answered: Callable[[Beat], None],
        progress: Callable[[], Progress] | None = None,
    ) -> None:
        self._coordinator = coordinator
        self._incarnation = incarnation
        self._every_s = every_s
        self._answered = answered
        self._progress = progress
        self._stopping, self._due = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="embery-heartbeat", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def hurry(self) -> None:
        """Send the next one now."""
        self._due.set()

    def stop(self) -> None:
        """End, and tell the coordinator that the member leaves."""
        self._stopping.set()
        self._due.set()
        self._thread.join(2 * TIMEOUT_S)
        try:
            self._coordinator.leave(self._incarnation, timeout_s=TIMEOUT_S)
        except EmberyError as error:
            log.info("left without saying so: %s", error)

    def _run(self) -> None:
        silent = False
        while True:
            self._due.wait(self._every_s)
            if self._stopping.is_set():
                return
            self._due.clear()
            try:
                progress = None if self._progress is None else self._progress()
                beat = self._coordinator.heartbeat(self._incarnation, progress, timeout_s=TIMEOUT_S)
                self._answered(beat)
                if silent:
                    log.warning("the coordinator answers again")
                silent = False
            except Exception as error:
                # A heartbeat that ends would have the member taken for lost. It is said once.
                if not silent and not self._stopping.is_set():
                    log.warning("no heartbeat; rows go on without the coordinator: %s", error)
                silent = True
