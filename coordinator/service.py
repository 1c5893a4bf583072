"""The coordinator's gRPC service: messages in, messages out; `Cluster` does the work."""

from __future__ import annotations

from typing import Any

from embery.coordinator.cluster import Cluster
from embery.coordinator.grouping import Call
from embery.errors import InvalidArgument
from embery.rpc.address import split_address
from embery.rpc.readings import LEASES, BegunPiece, LeaseReport
from embery.rpc.records import Progress
from embery.rpc.serving import answering
from embery.rpc.v1 import coordinator_pb2 as c
from embery.rpc.v1 import routing_pb2 as r
from embery.rpc.v1.coordinator_pb2_grpc import CoordinatorServicer
from embery.validation import require_int

WAIT_MS_MAX = 600_000
TEXT_BYTES_MAX = 256
PLAN_BYTES_MAX = 4096
_CALLS: dict[Call, c.GroupCall] = {
    "none": c.GROUP_CALL_NONE,
    "soon": c.GROUP_CALL_SOON,
    "now": c.GROUP_CALL_NOW,
    "fenced": c.GROUP_CALL_FENCED,
}


class CoordinatorService(CoordinatorServicer):
    """See proto/embery/v1/coordinator.proto."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    @answering
    def RegisterServer(
        self, request: c.RegisterServerRequest, context: Any
    ) -> c.RegisterServerReply:
        """Give a server its number, and what it must know to serve."""
        _require_text("incarnation", request.incarnation)
        _require_text("host_identity", request.host_identity)
        split_address(request.address, "register server: address")
        cluster_id = self._cluster.state.cluster_id
        if request.cluster_id not in ("", cluster_id):
            raise InvalidArgument(
                f"register server: the caller belongs to cluster {request.cluster_id}, this one is "
                f"{cluster_id}; start the coordinator with the --state it had, or the server again"
            )
        number = self._cluster.register_server(
            request.incarnation, request.address, request.host_identity
        )
        state = self._cluster.state
        return c.RegisterServerReply(
            number=number,
            cluster_id=state.cluster_id,
            secret=state.secret,
            routing=self._cluster.server_routing().to_message(),
            tables=state.tables.values(),
            heartbeat_ms=self._heartbeat_ms(),
        )

    @answering
    def RegisterWorker(
        self, request: c.RegisterWorkerRequest, context: Any
    ) -> c.RegisterWorkerReply:
        """Give a worker its client number."""
        _require_text("incarnation", request.incarnation)
        require_int("register worker: world_size", request.world_size, low=1, high=2**16)
        require_int("register worker: rank", request.rank, low=0, high=request.world_size - 1)
        client = self._cluster.register_worker(
            request.incarnation, request.rank, request.world_size
        )
        state = self._cluster.state
        return c.RegisterWorkerReply(
            client=client,
            cluster_id=state.cluster_id,
            secret=state.secret,
            heartbeat_ms=self._heartbeat_ms(),
        )

    @answering
    def Heartbeat(self, request: c.HeartbeatRequest, context: Any) -> c.HeartbeatReply:
        """Note that a member is there."""
        known = self._cluster.heartbeat(request.incarnation, Progress.of(request.progress))
        return c.HeartbeatReply(
            known=known,
            slowest=self._cluster.clocks.slowest(request.incarnation),
            leases_from=LEASES + self._cluster.leases_from(),
            routing_version=self._cluster.state.routing.version,
            table_count=len(self._cluster.state.tables),
            group_call=_CALLS[self._cluster.groups.call(request.incarnation)],
            drained=known and self._cluster.is_drained(request.incarnation),
        )

    @answering
    def WaitClock(self, request: c.WaitClockRequest, context: Any) -> c.WaitClockReply:
        """Return how far the slowest worker is, once it has come so far."""
        return c.WaitClockReply(
            slowest=self._cluster.clocks.wait(
                request.incarnation,
                Progress.of(request.progress),
                request.at_least,
                _wait_s(request.wait_ms),
            )
        )

    @answering
    def Leave(self, request: c.LeaveRequest, context: Any) -> c.LeaveReply:
        """Note that a member ends cleanly."""
        self._cluster.leave(request.incarnation)
        return c.LeaveReply()

    @answering
    def Drain(self, request: c.DrainRequest, context: Any) -> c.DrainReply:
        """Give the slots of a server to others."""
        return c.DrainReply(slots=self._cluster.drain(request.server, request.incarnation))

    @answering
    def Scale(self, request: c.ScaleRequest, context: Any) -> c.ScaleReply:
        """Set how many servers or workers shall be there."""
        if request.servers or not request.workers:
            self._cluster.scale(request.servers)
        if request.workers:
            self._cluster.groups.want(request.workers)
        return c.ScaleReply()

    @answering
    def WaitRouting(self, request: c.WaitRoutingRequest, context: Any) -> r.Routing:
        """Return the routing once there is a newer one."""
        wait_s = _wait_s(request.wait_ms)
        return self._cluster.wait_routing(request.after_version, wait_s).to_message()

    @answering
    def CreateTable(self, request: c.CreateTableRequest, context: Any) -> c.CreateTableReply:
        """Create a table on all live servers."""
        self._cluster.create_table(request.definition_json, _wait_s(request.wait_ms))
        return c.CreateTableReply()

    @answering
    def ListTables(self, request: c.ListTablesRequest, context: Any) -> c.ListTablesReply:
        """Return all definitions."""
        return c.ListTablesReply(tables=self._cluster.served_tables())

    @answering
    def OpenReading(self, request: c.OpenReadingRequest, context: Any) -> c.OpenReadingReply:
        """Begin to share out a data set."""
        _require_text("reading", request.reading)
        _require_text("plan", request.plan, PLAN_BYTES_MAX)
        begun = [BegunPiece.of(piece) for piece in request.begun]
        reading = self._cluster.readings.open(request.reading, request.plan, request.pieces, begun)
        return c.OpenReadingReply(
            begun=[
                BegunPiece(
                    p.number, p.done, p.finished, LEASES + reading.lease_of(p), p.token
                ).to_message()
                for p in reading.pieces.values()
                if p.token or p.done or p.finished
            ]
        )

    @answering
    def HoldLeases(self, request: c.HoldLeasesRequest, context: Any) -> c.HoldLeasesReply:
        """Take in how far leases are, and give out more."""
        reading, held = self._cluster.readings.hold(
            request.incarnation,
            request.reading,
            [LeaseReport.of(report) for report in request.reports],
            want=request.want,
            wait_s=_wait_s(request.wait_ms),
            stop=request.stop,
        )
        return c.HoldLeasesReply(
            leases=[
                c.Lease(
                    piece=p.number,
                    token=p.token,
                    done=p.done,
                    number=LEASES + reading.lease_of(p),
                )
                for p in held
            ],
            state=reading.state,
            error=reading.error,
        )

    @answering
    def AskForGroup(self, request: c.AskForGroupRequest, context: Any) -> c.AskForGroupReply:
        """Wait for the next group of workers."""
        split_address(request.address, "group: address")
        group, rank = self._cluster.groups.ask(
            request.incarnation,
            _wait_s(request.wait_ms),
            epoch=request.epoch,
            step=request.step,
            address=request.address,
            starting=request.starting,
        )
        if group is None:
            return c.AskForGroupReply(dismissed=True)
        return c.AskForGroupReply(
            epoch=group.epoch,
            rank=rank,
            world_size=len(group.members),
            address=group.address,
            source=None if group.source < 0 else group.source,
            lease=LEASES + group.lease,
            shares=LEASES + group.shares,
        )

    @answering
    def BeginPause(self, request: c.BeginPauseRequest, context: Any) -> c.BeginPauseReply:
        """Pause all workers between two pushes."""
        return c.BeginPauseReply(pause=self._cluster.pauses.begin(_wait_s(request.wait_ms)))

    @answering
    def EndPause(self, request: c.EndPauseRequest, context: Any) -> c.EndPauseReply:
        """Let workers go on."""
        return c.EndPauseReply(held=self._cluster.pauses.end(request.pause))

    @answering
    def WaitPause(self, request: c.WaitPauseRequest, context: Any) -> c.WaitPauseReply:
        """Return the pause in force once it is another than the worker keeps."""
        return c.WaitPauseReply(
            pause=self._cluster.pauses.wait(
                request.incarnation, request.pause, _wait_s(request.wait_ms)
            )
        )

    @answering
    def Status(self, request: c.StatusRequest, context: Any) -> c.StatusReply:
        """Return all there is to know; its routing names every server, also those without slots."""
        state, gathering = self._cluster.state, self._cluster.groups.present
        routing = state.routing.to_message()
        del routing.servers[:]
        routing.servers.extend(server.info().to_message() for server in state.servers.values())
        return c.StatusReply(
            cluster_id=state.cluster_id,
            expected_servers=self._cluster.options.expect_servers,
            reason=self._cluster.reason,
            wanted_servers=state.wanted_servers,
            wanted_workers=gathering.wanted,
            group=gathering.group.members,
            routing=routing,
            tables=state.tables.values(),
            workers=[
                c.WorkerInfo(
                    client=w.client,
                    rank=w.rank,
                    world_size=w.world_size,
                    state=w.state,
                    progress=w.progress.to_message(),
                    samples_per_s=w.samples_per_s,
                )
                for w in state.workers.values()
            ],
            readings=[
                c.ReadingInfo(
                    reading=reading.name,
                    state=reading.state,
                    pieces=reading.count,
                    finished=reading.finished_count,
                    held=sum(p.holder is not None for p in reading.pieces.values()),
                )
                for reading in self._cluster.readings.all.values()
            ],
        )

    def _heartbeat_ms(self) -> int:
        return max(1, round(self._cluster.options.heartbeat_s * 1000))


def _require_text(field: str, text: str, high: int = TEXT_BYTES_MAX) -> None:
    if not 0 < len(text) <= high:
        raise InvalidArgument(f"{field} must have 1 to {high} characters, got {len(text)}")


def _wait_s(wait_ms: int) -> float:
    require_int("wait_ms", wait_ms, low=0, high=WAIT_MS_MAX)
    return wait_ms / 1000
