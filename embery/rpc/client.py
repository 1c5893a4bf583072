"""The client of the coordinator, as the store and the roles use it.

It is thread-safe, connects when first used, and raises Embery's errors: `Unavailable` where the
other side cannot be reached, `DeadlineExceeded` where it does not answer in time, `Unauthenticated`
where it refuses the credentials, `InvalidArgument` where it speaks another version of the protocol.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from typing import Any, Literal

from embery.rpc.address import address_of, host_identity
from embery.rpc.channel import TIMEOUT_S, WAIT_GRACE_S, Channel
from embery.rpc.credentials import Credentials
from embery.rpc.pausing import PauseCalls
from embery.rpc.readings import ReadingCalls
from embery.rpc.records import Progress, Routing, routing_from
from embery.rpc.v1 import coordinator_pb2 as c
from embery.rpc.v1.coordinator_pb2_grpc import CoordinatorStub


@dataclass(frozen=True, slots=True)
class ServerGrant:
    """What a server learns when it registers; `tables` are definitions as JSON."""

    number: int
    cluster_id: str
    secret: bytes
    routing: Routing
    tables: list[str]
    heartbeat_s: float


@dataclass(frozen=True, slots=True)
class WorkerGrant:
    """What a worker learns when it registers; `client` is unique in the life of the cluster."""

    client: int
    cluster_id: str
    secret: bytes
    heartbeat_s: float


@dataclass(frozen=True, slots=True)
class GroupGrant:
    """A group of workers, as one of them learns of it.

    Args:
        epoch: higher than that of any group before.
        rank, world_size: which of its workers this one is.
        address: where they find each other.
        source: rank whose state the others take; None where all begin.
        lease: of the batches that all push together.
        shares: lease of what rank 0 pushes by itself; those of other ranks follow.
    """

    epoch: int
    rank: int
    world_size: int
    address: str
    source: int | None
    lease: int
    shares: int


GroupCall = Literal["none", "soon", "now", "fenced"]
_CALLS: dict[int, GroupCall] = {
    c.GROUP_CALL_NONE: "none",
    c.GROUP_CALL_SOON: "soon",
    c.GROUP_CALL_NOW: "now",
    c.GROUP_CALL_FENCED: "fenced",
}


@dataclass(frozen=True, slots=True)
class Beat:
    """Answer to a heartbeat; a member that is not `known` registers again.

    A server that is `drained` has no slots left and may end. `slowest` is the clock of the slowest
    of a worker's group; None where it is not known. Leases below `leases_from` are over.
    `group_call` is what a worker shall do about its group: nothing, ask for the next one after the
    step under way, or at once, or end, for the others went on without it.
    """

    known: bool
    routing_version: int
    table_count: int
    drained: bool
    slowest: int | None
    leases_from: int
    group_call: GroupCall


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker as the coordinator sees it; `state` is "registered", "live", "lost" or "left"."""

    client: int
    rank: int
    world_size: int
    state: str
    progress: Progress
    samples_per_s: float


@dataclass(frozen=True, slots=True)
class ReadingStatus:
    """A reading as the coordinator sees it: of its `pieces`, so many are `finished` or `held`."""

    reading: str
    state: str
    pieces: int
    finished: int
    held: int


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """The cluster as the coordinator sees it; `reason` says what it decided last, and why.

    `group` are the clients of the workers that train together, in the order of their ranks.
    """

    cluster_id: str
    expected_servers: int
    reason: str
    routing: Routing
    tables: list[dict[str, Any]]
    workers: list[WorkerStatus]
    readings: list[ReadingStatus]
    wanted_servers: int
    wanted_workers: int
    group: list[int]


class CoordinatorClient(ReadingCalls, PauseCalls):
    """Calls a coordinator.

    Args:
        url: "embery://HOST:PORT".
        credentials: None takes those that the environment names.
        timeout_s: deadline of a call that names none of its own.
    """

    def __init__(
        self, url: str, credentials: Credentials | None = None, timeout_s: float = TIMEOUT_S
    ) -> None:
        self.url = url
        self._timeout_s = timeout_s
        credentials = credentials or Credentials.from_environment()
        self._channel = Channel(address_of(url), credentials, role="coordinator")
        self._stub = CoordinatorStub(self._channel.grpc)  # type: ignore[no-untyped-call]

    def register_server(
        self, *, incarnation: str, address: str, host_identity: str, cluster_id: str = ""
    ) -> ServerGrant:
        """Register a server; again with the same `incarnation` returns the same number.

        `cluster_id` is that of an earlier registration: another cluster refuses it.
        """
        request = c.RegisterServerRequest(
            incarnation=incarnation,
            address=address,
            host_identity=host_identity,
            cluster_id=cluster_id,
        )
        reply = self._channel.call(
            self._stub.RegisterServer, request, self._timeout_s, what="register server"
        )
        return ServerGrant(
            number=reply.number,
            cluster_id=reply.cluster_id,
            secret=reply.secret,
            routing=routing_from(reply.routing),
            tables=list(reply.tables),
            heartbeat_s=reply.heartbeat_ms / 1000,
        )

    def register_worker(
        self, *, incarnation: str | None = None, rank: int = 0, world_size: int = 1
    ) -> WorkerGrant:
        """Register a worker; again with the same `incarnation` returns the same client."""
        request = c.RegisterWorkerRequest(
            incarnation=incarnation or uuid.uuid4().hex,
            rank=rank,
            world_size=world_size,
            host_identity=host_identity(),
        )
        reply = self._channel.call(
            self._stub.RegisterWorker, request, self._timeout_s, what="register worker"
        )
        return WorkerGrant(
            reply.client, reply.cluster_id, reply.secret, heartbeat_s=reply.heartbeat_ms / 1000
        )

    def heartbeat(
        self,
        incarnation: str,
        progress: Progress | None = None,
        *,
        timeout_s: float | None = None,
    ) -> Beat:
        """Say that a server or worker is there, and how far a worker is.

        It waits for the connection, and so brings back that of all calls after the coordinator was
        started again.
        """
        reply = self._channel.call(
            self._stub.Heartbeat,
            c.HeartbeatRequest(
                incarnation=incarnation,
                progress=None if progress is None else progress.to_message(),
            ),
            self._timeout_s if timeout_s is None else timeout_s,
            what="heartbeat",
            wait_for_ready=True,
        )
        return Beat(
            known=reply.known,
            routing_version=reply.routing_version,
            table_count=reply.table_count,
            drained=reply.drained,
            slowest=reply.slowest if reply.HasField("slowest") else None,
            leases_from=reply.leases_from,
            group_call=_CALLS.get(reply.group_call, "none"),
        )

    def wait_clock(
        self, incarnation: str, progress: Progress, *, at_least: int, wait_s: float
    ) -> int | None:
        """Wait until the slowest of a worker's group has a clock of `at_least`; return its clock.

        Returns what there is when `wait_s` is over; None where it is not known.
        """
        request = c.WaitClockRequest(
            incarnation=incarnation,
            progress=progress.to_message(),
            at_least=at_least,
            wait_ms=round(wait_s * 1000),
        )
        reply = self._channel.call(
            self._stub.WaitClock, request, wait_s + WAIT_GRACE_S, what="wait for the slowest"
        )
        return int(reply.slowest) if reply.HasField("slowest") else None

    def leave(self, incarnation: str, *, timeout_s: float | None = None) -> None:
        """Say that a server or worker is about to end; a no-op for one that is not known."""
        self._channel.call(
            self._stub.Leave,
            c.LeaveRequest(incarnation=incarnation),
            self._timeout_s if timeout_s is None else timeout_s,
            what="leave",
        )

    def drain(self, server: int = 0, *, incarnation: str = "") -> int:
        """Give the slots of a server, by number or incarnation, to others; return how many.

        Raises:
            InvalidArgument: there is no such server, or no other to take them.
        """
        request = c.DrainRequest(server=server, incarnation=incarnation)
        reply = self._channel.call(self._stub.Drain, request, self._timeout_s, what="drain")
        return int(reply.slots)

    def scale(self, servers: int = 0, *, workers: int = 0) -> None:
        """Set how many servers, or workers, shall be there; 0 leaves a number as it is.

        Servers that are too many are drained, workers end after their step.
        """
        request = c.ScaleRequest(servers=servers, workers=workers)
        self._channel.call(self._stub.Scale, request, self._timeout_s, what="scale")

    def ask_for_group(
        self,
        incarnation: str,
        *,
        epoch: int,
        step: int,
        address: str,
        starting: bool,
        wait_s: float,
    ) -> GroupGrant | None:
        """Wait for the next group of a worker; None: it is one too many.

        Args:
            epoch: of the group that it is in; 0 for none.
            step: how far its dense parameters are.
            address: where the others find each other, if it becomes rank 0.
            starting: whether it has no state of the run to go on with.

        Raises:
            Unavailable: others are waited for; ask again.
            InvalidArgument: a group went on without the worker.
        """
        request = c.AskForGroupRequest(
            incarnation=incarnation,
            epoch=epoch,
            step=step,
            address=address,
            starting=starting,
            wait_ms=round(wait_s * 1000),
        )
        reply = self._channel.call(
            self._stub.AskForGroup, request, wait_s + WAIT_GRACE_S, what="group"
        )
        if reply.dismissed:
            return None
        return GroupGrant(
            epoch=reply.epoch,
            rank=reply.rank,
            world_size=reply.world_size,
            address=reply.address,
            source=reply.source if reply.HasField("source") else None,
            lease=reply.lease,
            shares=reply.shares,
        )

    def routing(self, after_version: int = 0, timeout_s: float | None = None) -> Routing:
        """Wait for a routing newer than `after_version`, and return it.

        Raises:
            Unavailable: slots are not placed yet; the message says how many servers are missing.
            DeadlineExceeded: none newer came within `timeout_s`.
        """
        wait_s = self._timeout_s if timeout_s is None else timeout_s
        request = c.WaitRoutingRequest(after_version=after_version, wait_ms=round(wait_s * 1000))
        return routing_from(
            self._channel.call(
                self._stub.WaitRouting, request, wait_s + WAIT_GRACE_S, what="routing"
            )
        )

    def create_table(self, definition_json: str) -> None:
        """Create a table of `Table.to_dict()` as JSON; a no-op if an equal one exists.

        Returns when every live server has it.

        Raises:
            SchemaMismatch: a table of this name has another definition.
            Unavailable: slots are not placed yet, or a server cannot be reached; try again.
        """
        request = c.CreateTableRequest(
            definition_json=definition_json, wait_ms=round(self._timeout_s * 1000)
        )
        self._channel.call(
            self._stub.CreateTable, request, self._timeout_s + WAIT_GRACE_S, what="create table"
        )

    def tables(self) -> list[str]:
        """Return the definitions of all tables as JSON, in the order of their creation."""
        reply = self._channel.call(
            self._stub.ListTables, c.ListTablesRequest(), self._timeout_s, what="tables"
        )
        return list(reply.tables)

    def status(self) -> ClusterStatus:
        """Return what the coordinator knows of the cluster."""
        reply = self._channel.call(
            self._stub.Status, c.StatusRequest(), self._timeout_s, what="status"
        )
        return ClusterStatus(
            cluster_id=reply.cluster_id,
            expected_servers=reply.expected_servers,
            reason=reply.reason,
            routing=routing_from(reply.routing),
            tables=[json.loads(table) for table in reply.tables],
            workers=[
                WorkerStatus(
                    client=worker.client,
                    rank=worker.rank,
                    world_size=worker.world_size,
                    state=worker.state,
                    progress=Progress.of(worker.progress),
                    samples_per_s=worker.samples_per_s,
                )
                for worker in reply.workers
            ],
            readings=[
                ReadingStatus(r.reading, r.state, r.pieces, r.finished, r.held)
                for r in reply.readings
            ],
            wanted_servers=reply.wanted_servers,
            wanted_workers=reply.wanted_workers,
            group=list(reply.group),
        )

    def close(self) -> None:
        """Close the connection; calls under way fail."""
        self._channel.close()
