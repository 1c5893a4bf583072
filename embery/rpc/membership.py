"""A worker as a member of a cluster: registered by its rank, heard of, and how far it is."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Sequence
from dataclasses import replace

from embery.place import Place
from embery.rpc.client import Beat, CoordinatorClient, GroupCall, GroupGrant, WorkerGrant
from embery.rpc.heartbeat import Heartbeat
from embery.rpc.pausing import PauseWatch, PushGate
from embery.rpc.readings import BegunPiece, Holding, LeaseReport
from embery.rpc.records import Progress


class Membership:
    """Registers when it is made, and sends heartbeats from `start` until `close`. Thread-safe.

    Args:
        coordinator: of the cluster; not closed here.
        place: of the worker in its run.

    Raises:
        EmberyError: the coordinator cannot be reached, or refuses.
    """

    def __init__(self, coordinator: CoordinatorClient, place: Place) -> None:
        self._coordinator = coordinator
        self._place = place
        self._incarnation = uuid.uuid4().hex
        self._lock = threading.Lock()
        # Replaced under the lock, never changed.
        self._progress = Progress()
        self._slowest: int | None = None
        self._group_call: GroupCall = "none"
        # What the last heartbeat said; used by its thread only.
        self._told = self._progress
        grant = self._register()
        self.client = grant.client
        self._heartbeat = Heartbeat(
            coordinator, self._incarnation, grant.heartbeat_s, self._answered, self._tell
        )
        # Through which a worker pushes what is one change to it.
        self.gate = PushGate()
        self._pauses = PauseWatch(self._wait_pause, self.gate)

    def start(self) -> None:
        """Begin to say that this worker is there."""
        self._heartbeat.start()
        self._pauses.start()

    def close(self) -> None:
        """Leave the cluster."""
        self._heartbeat.stop()
        self._pauses.stop()

    def progress(self) -> Progress:
        """Return how far this worker is."""
        return self._progress

    @property
    def slowest(self) -> int | None:
        """Return the clock of the slowest of the group as of the last heartbeat, if it is known."""
        return self._slowest

    def set_clock(self, clock: int | None, group: str, *, hurry: bool) -> None:
        """Say that the pushes of `clock` batches are applied; None: that this worker takes none.

        The next heartbeat tells of it; `hurry` sends it now.
        """
        with self._lock:
            known = self._progress
            if group != known.group:
                self._slowest = None
            self._progress = replace(known, revision=known.revision + 1, clock=clock, group=group)
        if hurry:
            self._heartbeat.hurry()

    def wait_clock(self, at_least: int, wait_s: float) -> int | None:
        """See `CoordinatorClient.wait_clock`."""
        self._slowest = self._coordinator.wait_clock(
            self._incarnation, self._progress, at_least=at_least, wait_s=wait_s
        )
        return self._slowest

    @property
    def group_call(self) -> GroupCall:
        """Return what this worker shall do about its group, as of the last heartbeat."""
        return self._group_call

    def ask_for_group(
        self, *, epoch: int, step: int, address: str, starting: bool, wait_s: float
    ) -> GroupGrant | None:
        """See `CoordinatorClient.ask_for_group`."""
        grant = self._coordinator.ask_for_group(
            self._incarnation,
            epoch=epoch,
            step=step,
            address=address,
            starting=starting,
            wait_s=wait_s,
        )
        self._group_call = "none"
        return grant

    def advance(self, *, batches: int = 0, samples: int = 0, staleness: int = 0) -> None:
        """Count batches and samples that this worker took; the next heartbeat tells of them."""
        with self._lock:
            known = self._progress
            self._progress = replace(
                known,
                revision=known.revision + 1,
                batches=known.batches + batches,
                samples=known.samples + samples,
                staleness=staleness,
            )

    def open_reading(
        self, reading: str, *, plan: str, pieces: int, begun: Sequence[BegunPiece] = ()
    ) -> list[BegunPiece]:
        """See `CoordinatorClient.open_reading`."""
        return self._coordinator.open_reading(reading, plan=plan, pieces=pieces, begun=begun)

    def hold_leases(
        self,
        reading: str,
        *,
        want: int,
        reports: Sequence[LeaseReport] = (),
        wait_s: float = 0.0,
        stop: bool = False,
    ) -> Holding:
        """See `CoordinatorClient.hold_leases`; the leases are those of this worker."""
        return self._coordinator.hold_leases(
            self._incarnation, reading, want=want, reports=reports, wait_s=wait_s, stop=stop
        )

    def _wait_pause(self, pause: int, wait_s: float) -> int:
        return self._coordinator.wait_pause(self._incarnation, pause, wait_s)

    def _register(self) -> WorkerGrant:
        return self._coordinator.register_worker(
            incarnation=self._incarnation,
            rank=self._place.rank,
            world_size=self._place.world_size,
        )

    def _tell(self) -> Progress:
        self._told = self._progress
        return self._told

    def _answered(self, beat: Beat) -> None:
        """Register again with a coordinator that does not know this worker."""
        with self._lock:
            self._group_call = beat.group_call
            if self._told.group == self._progress.group:
                self._slowest = beat.slowest
        if not beat.known:
            self._register()
