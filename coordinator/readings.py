"""The readings of a cluster: what workers report and ask for, decided, recorded, then told."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from embery.coordinator.database import Database
from embery.coordinator.leasing import failure, grant, revoke, settle
from embery.coordinator.state import ClusterOptions, Piece, Reading, Worker
from embery.errors import InvalidArgument, Unavailable
from embery.rpc.readings import LEASES, LEASES_MAX, PIECES_MAX, BegunPiece, LeaseReport
from embery.validation import require_int

log = logging.getLogger(__name__)

# Readings that are kept; beyond, the oldest are forgotten.
READINGS_MAX = 64


class Readings:
    """Thread-safe: guarded by the cluster's lock.

    Args:
        database: where every change is recorded before it is told.
        changed: lock of the cluster, and what those who wait for a change wait on.
        worker_of: returns the worker of an incarnation, or None; called under the lock.
        leases_from: returns the number below which all leases are over; called under the lock.
    """

    def __init__(
        self,
        database: Database,
        changed: threading.Condition,
        worker_of: Callable[[str], Worker | None],
        leases_from: Callable[[], int],
    ) -> None:
        self._database = database
        self._changed = changed
        self._leases_from = leases_from
        self._worker_of = worker_of
        # Replaced under the lock, never changed; the oldest first.
        self._readings = database.load_readings()
        self._over = {r.name for r in self._readings.values() if r.is_over}

    @property
    def all(self) -> Mapping[str, Reading]:
        """Return all readings by name."""
        return self._readings

    def leases_from(self) -> int:
        """Return the number below which all leases of readings are over; called under the lock."""
        unfinished = (r for r in self._readings.values() if r.name not in self._over)
        return min(map(_leases_from, unfinished), default=self._database.next_lease())

    def open(self, name: str, plan: str, count: int, begun: Iterable[BegunPiece]) -> Reading:
        """Open a reading, unless it is there already; return it.

        Raises:
            InvalidArgument: it is there with another plan, or an argument is out of its range.
        """
        require_int("open reading: pieces", count, low=0, high=PIECES_MAX)
        begun = list(begun)
        for piece in begun:
            require_int("open reading: piece", piece.piece, low=0, high=count - 1)
        with self._changed:
            known = self._readings.get(name)
            if known is None:
                pieces = {p.piece: _piece_of(p, self._leases_from()) for p in begun}
                first_lease = self._database.reserve_leases(count)
                known = Reading(name, plan, count, pieces, first_lease=first_lease)
                self._database.put_reading(known, pieces.values())
                self._readings = {**self._readings, name: known}
                self._forget_old()
            elif (known.plan, known.count) != (plan, count):
                raise InvalidArgument(
                    f"workers read different data: one reads {known.plan}, another {plan}; give "
                    "all of them the same data set"
                )
            return known

    def hold(
        self,
        incarnation: str,
        name: str,
        reports: Sequence[LeaseReport],
        *,
        want: int,
        wait_s: float,
        stop: bool,
    ) -> tuple[Reading, list[Piece]]:
        """Take in reports, then give out leases; return the reading and all that are held.

        Raises:
            InvalidArgument: there is no such reading.
            Unavailable: the worker is not known; it registers again with its next heartbeat.
        """
        require_int("leases: want", want, low=0, high=LEASES_MAX)
        deadline = time.monotonic() + wait_s
        with self._changed:
            client = self._client_of(incarnation)
            changed, reason = settle(self._find(name), client, reports)
            self._record(name, changed, reason, stop=stop)
            while True:
                given, _ = grant(self._find(name), client, want)
                self._record(name, given)
                reading = self._find(name)
                held = reading.held_by(client)
                left_s = deadline - time.monotonic()
                if held or reading.state != "open" or left_s <= 0:
                    return reading, held
                self._changed.wait(left_s)
                # It may have been lost meanwhile; then it must not be given anything.
                client = self._client_of(incarnation)

    def revoke(self, now_s: float, workers: Mapping[int, Worker], options: ClusterOptions) -> None:
        """Take back the leases of workers that are gone; called under the lock."""
        for name, reading in self._readings.items():
            changed, reason = revoke(now_s, reading, workers, options)
            self._record(name, changed, reason)

    def _client_of(self, incarnation: str) -> int:
        worker = self._worker_of(incarnation)
        if worker is None or worker.state in ("lost", "left"):
            raise Unavailable(
                "leases: this worker is not a member now; its heartbeat says so first"
            )
        return worker.client

    def _find(self, name: str) -> Reading:
        try:
            return self._readings[name]
        except KeyError:
            raise InvalidArgument(
                f"leases: there is no reading {name!r}; it was forgotten, or the coordinator was "
                "started again without its --state"
            ) from None

    def _record(
        self, name: str, changed: Sequence[Piece], reason: str = "", *, stop: bool = False
    ) -> None:
        """Record what changed, then let all know; called under the lock."""
        if reason:
            log.warning("reading %s: %s", name, reason)
        reading = self._find(name)
        if not changed and not (stop and not reading.stopped):
            return
        pieces = {**reading.pieces, **{piece.number: piece for piece in changed}}
        reading = replace(reading, pieces=pieces, stopped=reading.stopped or stop)
        reading = replace(reading, error=reading.error or failure(reading, reason))
        self._database.put_reading(reading, changed)
        self._readings = {**self._readings, name: reading}
        if reading.is_over:
            self._over.add(name)
        self._changed.notify_all()

    def _forget_old(self) -> None:
        for name in list(self._readings)[: max(0, len(self._readings) - READINGS_MAX)]:
            self._database.forget_reading(name)
            self._readings = {n: r for n, r in self._readings.items() if n != name}
            self._over.discard(name)


def _piece_of(begun: BegunPiece, leases_from: int) -> Piece:
    """Return a piece that was begun in another reading; one whose leases are over gets new ones."""
    lease = begun.lease - LEASES
    if lease < leases_from:
        return Piece(begun.piece, begun.done, begun.finished)
    return Piece(begun.piece, begun.done, begun.finished, begun.token, lease=lease)


def _leases_from(reading: Reading) -> int:
    """Return the lowest number of a lease of a reading."""
    earlier = (piece.lease for piece in reading.pieces.values() if piece.lease)
    return min(earlier, default=reading.first_lease)
