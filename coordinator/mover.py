"""Moves slots, one move at a time, for as long as they do not lie well."""

from __future__ import annotations

import logging
import threading

from embery.coordinator.cluster import Cluster
from embery.coordinator.state import Move
from embery.errors import EmberyError
from embery.observability.logs import facts

log = logging.getLogger(__name__)

IDLE_S = 0.1
# Until what failed is tried again; it doubles with each failure in a row.
RETRY_S = 0.5
RETRY_S_MAX = 30.0
STOP_TIMEOUT_S = 5.0


class Mover:
    """A thread that carries out what `Cluster.next_move` decides.

    Which server owns the slots of a move is decided by the routing that ends it, and that is
    durable before anyone is told. A move that did not come to its end leaves them where they were.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._stopping = threading.Event()
        self._retry_s = RETRY_S
        # A daemon: a copy that is under way may take longer than anyone waits for the end.
        self._thread = threading.Thread(target=self._run, name="embery-move", daemon=True)

    def start(self) -> None:
        """Begin."""
        left = self._cluster.state.move
        if left is not None:
            log.warning("a move was under way when the coordinator ended: it is undone")
            self._cluster.settle(left, moved=False)
        self._thread.start()

    def stop(self) -> None:
        """End; a move that is under way is undone by the next coordinator of this state."""
        self._stopping.set()
        self._thread.join(STOP_TIMEOUT_S)

    def _run(self) -> None:
        wait_s = 0.0
        while not self._stopping.wait(wait_s):
            try:
                left = self._cluster.state.move
                if left is not None:
                    # Its end could not be recorded, and until it is its slots are frozen.
                    self._cluster.settle(left, moved=False)
                move = self._cluster.next_move()
                wait_s = IDLE_S if move is None else self._carry_out(move)
            except Exception:
                # A thread that ends would leave slots where they are for good.
                log.exception("moving slots failed; it is tried again")
                wait_s = self._back_off() if self._cluster.state.move is None else RETRY_S

    def _carry_out(self, move: Move) -> float:
        """Carry out a move; return how long to wait until the next."""
        what = facts(slots=f"{move.begin} to {move.end - 1}", source=move.source, to=move.target)
        try:
            outcome = self._cluster.carry_out(move)
        except EmberyError as error:
            log.warning("slots stay where they were: %s", error, extra=what)
            if not self._stopping.is_set():
                self._cluster.settle(move, moved=False)
            return self._back_off()
        if self._stopping.is_set():
            return 0.0
        self._cluster.settle(move, moved=True)
        self._retry_s = RETRY_S
        log.info(
            "slots %s: %d rows, %.1f MB, frozen for %.1f ms",
            "have moved" if move.hand_over else "have a copy",
            outcome.rows, outcome.bytes / 1e6, outcome.frozen_seconds * 1e3, extra=what,
        )  # fmt: skip
        return 0.0

    def _back_off(self) -> float:
        wait_s, self._retry_s = self._retry_s, min(2 * self._retry_s, RETRY_S_MAX)
        return wait_s
