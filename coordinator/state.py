"""What the coordinator knows of its cluster: plain values, no clock and no I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from embery.rpc.records import Progress, ReadingState, Routing, ServerInfo, ServerState
from embery.validation import require_int, require_range

SERVERS_MAX = 1024
REPLICAS_MAX = 2
# "registered": no heartbeat came yet; only a worker that sends them can be missed.
WorkerState = Literal["registered", "live", "lost", "left"]


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """How a cluster is run.

    Args:
        expect_servers: slots are placed when so many servers are live.
        heartbeat_s: how often a member says that it is there.
        lease_s: a member not heard of for so long is lost.
        replicas: servers that have each slot: with 2, a killed one takes nothing along.
    """

    expect_servers: int = 1
    heartbeat_s: float = 0.5
    lease_s: float = 2.0
    replicas: int = 1

    def validate(self) -> None:
        """Raise `InvalidArgument` naming the first option that is wrong."""
        require_int("--expect-ps", self.expect_servers, low=1, high=SERVERS_MAX)
        require_range("--heartbeat", self.heartbeat_s, low=0.01, high=60)
        require_range("--lease", self.lease_s, low=2 * self.heartbeat_s, high=3600)
        require_int("--replicas", self.replicas, low=1, high=REPLICAS_MAX)


@dataclass(frozen=True, slots=True)
class Server:
    """A server: what it said when it registered, and when it was heard of last.

    `heard_s` is a time of the monotonic clock, or that at which this coordinator started.
    """

    number: int
    incarnation: str
    address: str
    host_identity: str
    state: ServerState
    heard_s: float
    # Its slots go to others, and then it ends.
    draining: bool = False

    def info(self) -> ServerInfo:
        """Return what the routing says of it."""
        return ServerInfo(
            self.number, self.address, self.host_identity, self.state, draining=self.draining
        )


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker, likewise; `samples_per_s` is of the last seconds."""

    client: int
    incarnation: str
    rank: int
    world_size: int
    state: WorkerState
    heard_s: float
    progress: Progress = field(default_factory=Progress)
    samples_per_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of the data of a reading, and whose it is.

    Args:
        number: of the piece in the order in which pieces are given out.
        done: batches whose pushes are applied; who has it next goes on after them.
        finished: whether there are no more.
        token: of the newest lease: each has one more than the lease before it.
        holder: client number of the worker that has the lease; None where nobody does.
        failures: leases that ended in an error, or with the loss of their worker.
        lease: number of its leases, if it was begun in another reading; else 0.
    """

    number: int
    done: int = 0
    finished: bool = False
    token: int = 0
    holder: int | None = None
    failures: int = 0
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Reading:
    """A pass of all workers over a data set, of which each piece is read by one of them.

    Args:
        name: unique in the life of the cluster.
        plan: what is read and how it is cut into batches, in words.
        count: how many pieces there are.
        pieces: by number, those that were ever begun.
        first_lease: number of the leases of piece 0; those of the others follow.
        stopped: whether a worker ended it.
        error: why it failed; "" if it did not.
    """

    name: str
    plan: str
    count: int
    pieces: dict[int, Piece] = field(default_factory=dict)
    stopped: bool = False
    error: str = ""
    first_lease: int = 0

    @property
    def finished_count(self) -> int:
        """Return how many pieces are finished."""
        return sum(piece.finished for piece in self.pieces.values())

    @property
    def state(self) -> ReadingState:
        """Return whether leases are given out, or why not."""
        if self.error:
            return "failed"
        if self.stopped:
            return "stopped"
        return "finished" if self.finished_count == self.count else "open"

    @property
    def is_over(self) -> bool:
        """Return whether no batch of it will be pushed any more."""
        return self.state != "open" and all(p.holder is None for p in self.pieces.values())

    def lease_of(self, piece: Piece) -> int:
        """Return the number of the leases of a piece."""
        return piece.lease or self.first_lease + piece.number

    def held_by(self, client: int) -> list[Piece]:
        """Return the pieces that a worker has leases of, in their order."""
        return sorted(
            (piece for piece in self.pieces.values() if piece.holder == client),
            key=lambda piece: piece.number,
        )


@dataclass(frozen=True, slots=True)
class Candidate:
    """A worker that asks for the next group.

    Args:
        client: of the worker.
        epoch: of the group that it is in; 0 for none.
        step: how far its dense parameters are.
        address: "HOST:PORT" where the others find each other, if it becomes rank 0.
        starting: whether it has no state of the run to go on with.
    """

    client: int
    epoch: int
    step: int
    address: str
    starting: bool


@dataclass(frozen=True, slots=True)
class Group:
    """The workers that train together.

    Args:
        epoch: one more than that of the group before.
        members: client numbers in the order of ranks.
        address: where they find each other.
        source: rank whose state the others take; -1 where all begin.
        lease: number of the lease of the batches that all push together.
        shares: number of the lease of what rank 0 pushes by itself; those of others follow.
        fenced: clients that earlier groups were lost by, and went on without.
    """

    epoch: int = 0
    members: tuple[int, ...] = ()
    address: str = ""
    source: int = -1
    lease: int = 0
    shares: int = 0
    fenced: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Gathering:
    """A group, and who asks for the next one.

    Args:
        group: the present one.
        candidates: those who have asked, by client.
        wanted: how many workers there shall be; 0 where nobody has said so.
    """

    group: Group
    candidates: dict[int, Candidate] = field(default_factory=dict)
    wanted: int = 0


@dataclass(frozen=True, slots=True)
class Move:
    """Slots [begin, end) of which another server gets a copy, or, at `hand_over`, which become its.

    `version` is that of the routing before. With the next version the move is over: the target has
    what it was to have, or, if the move failed, nothing has changed.
    """

    begin: int
    end: int
    source: int
    target: int
    version: int
    hand_over: bool = True


@dataclass(frozen=True, slots=True)
class ClusterState:
    """All of it. Never changed, only replaced, so that a reader needs no lock.

    `routing.servers` are those that own slots or have copies. `tables` are definitions as JSON.
    `wanted_servers` is how many shall be there; 0 where nobody has said so.
    """

    cluster_id: str
    secret: bytes
    routing: Routing
    servers: dict[int, Server] = field(default_factory=dict)
    workers: dict[int, Worker] = field(default_factory=dict)
    tables: dict[str, str] = field(default_factory=dict)
    move: Move | None = None
    wanted_servers: int = 0
