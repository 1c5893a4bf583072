"""The group of workers of a cluster: who asks for the next one, decided, recorded, then told."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from embery.coordinator.database import Database
from embery.coordinator.grouping import Call, call, form
from embery.coordinator.state import Candidate, ClusterOptions, Gathering, Group, Worker
from embery.errors import InvalidArgument, Unavailable
from embery.place import WORKERS_MAX
from embery.validation import require_int

log = logging.getLogger(__name__)

# A worker that waits looks so often whether others are gone.
_LOOK_S = 0.2


class Groups:
    """Thread-safe: guarded by the cluster's lock.

    Args:
        database: where a group is recorded before it is told.
        changed: lock of the cluster, and what those who wait for a change wait on.
        worker_of: returns the worker of an incarnation, or None; called under the lock.
        workers: returns all workers by client; called under the lock.
    """

    def __init__(
        self,
        database: Database,
        changed: threading.Condition,
        worker_of: Callable[[str], Worker | None],
        workers: Callable[[], Mapping[int, Worker]],
        options: ClusterOptions,
    ) -> None:
        self._database, self._changed = database, changed
        self._worker_of, self._workers, self._options = worker_of, workers, options
        # Replaced under the lock, never changed.
        self._present = database.load_group()
        # Guarded by the lock.
        self._dismissed: set[int] = set()

    @property
    def present(self) -> Gathering:
        """Return the present group, and who asks for the next one."""
        return self._present

    def want(self, workers: int) -> None:
        """Set how many workers shall be there; those that are too many end after their step."""
        require_int("scale: --workers", workers, low=1, high=WORKERS_MAX)
        with self._changed:
            self._database.set_wanted_workers(workers)
            self._present = replace(self._present, wanted=workers)
            self._changed.notify_all()
        log.info("%d workers shall be there", workers)

    def ask(
        self,
        incarnation: str,
        wait_s: float,
        *,
        epoch: int,
        step: int,
        address: str,
        starting: bool,
    ) -> tuple[Group | None, int]:
        """Wait for the next group of a worker; return it with its rank. None: it is to end.

        Raises:
            InvalidArgument: a group has gone on without the worker.
            Unavailable: others are waited for, or the worker is not a member of the cluster now.
        """
        deadline = time.monotonic() + wait_s
        with self._changed:
            worker = self._worker_of(incarnation)
            if worker is None or worker.state in ("lost", "left"):
                raise Unavailable("group: this worker is not a member now; its heartbeat says so")
            client, group = worker.client, self._present.group
            self._require_not_fenced(client)
            self._require_state()
            # One that asks again, because it has not heard, has an answer already.
            if client not in self._dismissed and not (
                client in group.members and epoch < group.epoch
            ):
                self._put(Candidate(client, epoch, step, address, starting))
            while True:
                reason = self._form()
                if client in self._dismissed:
                    return None, 0
                if client not in self._present.candidates:
                    self._require_not_fenced(client)
                    group = self._present.group
                    return group, group.members.index(client)
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    raise Unavailable(f"group: {reason}")
                self._changed.wait(min(left_s, _LOOK_S))

    def call(self, incarnation: str) -> Call:
        """Return what a worker shall do about its group."""
        with self._changed:
            worker = self._worker_of(incarnation)
            if worker is None:
                return "none"
            now_s = time.monotonic()
            return call(now_s, self._present, worker.client, self._workers(), self._options)

    def leases_from(self, otherwise: int) -> int:
        """Return the lowest number of a lease of a group that is there; called under the lock."""
        group, workers = self._present.group, self._workers()
        members = [workers[client] for client in group.members if client in workers]
        is_there = any(member.state != "left" for member in members)
        return min(group.lease, otherwise) if is_there else otherwise

    def _require_not_fenced(self, client: int) -> None:
        group = self._present.group
        if client in group.fenced:
            raise InvalidArgument(
                f"group {group.epoch} of the workers went on without this one, which was not heard "
                f"of for {self._options.lease_s:g} s; what it pushed counts once, and it must end "
                "now"
            )

    def _require_state(self) -> None:
        members = [self._workers().get(client) for client in self._present.group.members]
        states = {"left" if member is None else member.state for member in members}
        if "lost" in states and states <= {"lost", "left"}:
            raise InvalidArgument(
                "all workers of the run are gone, and with them its dense parameters; start it "
                "again, its servers too, from its last checkpoint"
            )

    def _put(self, candidate: Candidate) -> None:
        candidates = {**self._present.candidates, candidate.client: candidate}
        self._present = replace(self._present, candidates=candidates)
        self._changed.notify_all()

    def _form(self) -> str:
        """Form the next group, if all have asked for it; return why, or why not."""
        before, asked = self._present.group, self._present.candidates
        formation, reason = form(time.monotonic(), self._present, self._workers(), self._options)
        if formation is None:
            return reason
        members, source = formation.members, formation.source
        first = self._database.reserve_leases(1 + len(members))
        group = Group(
            epoch=before.epoch + 1,
            members=members,
            address=asked[members[0]].address,
            source=-1 if source is None else members.index(source),
            lease=first if source is None else before.lease,
            shares=first + 1,
            fenced=before.fenced | (set(before.members) - {*members, *formation.dismissed}),
        )
        self._database.set_group(group)
        self._present = replace(self._present, group=group, candidates={})
        self._dismissed |= set(formation.dismissed)
        log.info("group %d of the workers: %s", group.epoch, reason)
        self._changed.notify_all()
        return reason
