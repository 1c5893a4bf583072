"""The coordinator itself: takes what members say, decides, records, and tells the servers.

One lock guards the state, which is replaced and never changed. Nothing is told before it is
durable, and no call to a server is made under the lock.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from embery.coordinator.balance import drains_wanted, has_drained, plan_move, staying
from embery.coordinator.clocks import Clocks
from embery.coordinator.database import Database
from embery.coordinator.decisions import advance, excuse, expire, overdue, place, with_holders
from embery.coordinator.groups import Groups
from embery.coordinator.pausing import Pauses
from embery.coordinator.readings import Readings
from embery.coordinator.state import ClusterOptions, ClusterState, Move, Server, Worker
from embery.errors import DeadlineExceeded, EmberyError, InvalidArgument, Unavailable
from embery.observability.logs import facts
from embery.routing import SLOT_COUNT
from embery.rpc.probing import has_ended
from embery.rpc.records import NO_SERVER, Progress, Routing, ServerState, table_from_json
from embery.rpc.server_client import ServerClient
from embery.rpc.v1.server_pb2 import CopySlotsReply
from embery.table import require_same
from embery.validation import require_int

log = logging.getLogger(__name__)

# Workers that are kept to show; beyond, those that have gone are forgotten, the oldest first.
WORKERS_MAX = 4096
SERVER_TIMEOUT_S = 5.0
# A move copies rows while training goes on: it may take long.
MOVE_TIMEOUT_S = 3600.0
STOP_TIMEOUT_S = 2 * SERVER_TIMEOUT_S


class Cluster:
    """A cluster and its state. Thread-safe.

    Args:
        database: what it was, and where every change is recorded; closed by `close`.
        options: how it is run.
        connect: makes a client for the address of a server.
    """

    def __init__(
        self,
        database: Database,
        options: ClusterOptions,
        connect: Callable[[str], ServerClient],
    ) -> None:
        options.validate()
        self.options = options
        self._database = database
        self._connect = connect
        self._changed = threading.Condition()
        self._state = database.load(time.monotonic())
        self.readings = Readings(database, self._changed, self._worker_of, self.leases_from)
        self.groups = Groups(
            database, self._changed, self._worker_of, lambda: self._state.workers, options
        )
        self.clocks = Clocks(
            self._changed, self._worker_of, lambda: self._state, self.heartbeat, options
        )
        self.pauses = Pauses(self._changed, lambda: self._state.workers, options)
        self._reason = place(time.monotonic(), self._state, options)[1]
        # Decided and recorded, but not all servers know it yet, so workers may not.
        self._pending: Routing | None = None
        self._move_reason = ""
        # What there was no move for: the version of the routing, and the servers.
        self._at_rest: tuple[int, list[tuple[int, ServerState, bool]]] | None = None
        self._clients: dict[str, ServerClient] = {}
        # Serialises the creation of tables, over the calls to servers that it takes.
        self._creating = threading.Lock()
        # Serialises the telling of a pending routing, over the calls to servers that it takes.
        self._telling = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="embery-watch", daemon=True)

    @property
    def state(self) -> ClusterState:
        """Return the present state."""
        return self._state

    @property
    def reason(self) -> str:
        """Return why slots are where they are, or what they wait for."""
        with self._changed:  # Not what was so before the state that the caller has seen.
            move = self._state.move
            if move is None:
                return self._reason
        what = "move" if move.hand_over else "are copied"
        return (
            f"slots {move.begin} to {move.end - 1} {what} from server {move.source} to server "
            f"{move.target}: {self._move_reason}"
        )

    def start(self) -> None:
        """Begin to watch leases and to place slots."""
        self._thread.start()

    def close(self) -> None:
        """Stop watching and close the database and all clients."""
        self._stopping.set()
        self.clocks.close()
        if self._thread.is_alive():
            self._thread.join(STOP_TIMEOUT_S)
        with self._changed:
            self._database.close()
            for client in self._clients.values():
                client.close()

    # -- members ----------------------------------------------------------------------------------

    def register_server(self, incarnation: str, address: str, host_identity: str) -> int:
        """Return the number of a server; it is live from its first heartbeat on."""
        with self._changed:
            known = self._server_of(incarnation)
            if known is not None:
                return known.number
            number = self._database.add_server(incarnation, address, host_identity)
            server = Server(
                number, incarnation, address, host_identity, "joining", time.monotonic()
            )
            self._put(server)
        log.info("server registered", extra=facts(server=number, address=address))
        return number

    def register_worker(self, incarnation: str, rank: int, world_size: int) -> int:
        """Return the client number of a worker."""
        with self._changed:
            known = self._worker_of(incarnation)
            if known is not None:
                return known.client
            self.pauses.wait_over()
            client = self._database.add_worker(incarnation, rank, world_size)
            self._forget_old_workers()
            self._put(Worker(client, incarnation, rank, world_size, "registered", time.monotonic()))
        log.info("worker registered", extra=facts(client=client, rank=rank))
        return client

    def heartbeat(self, incarnation: str, progress: Progress) -> bool:
        """Note that a member is there, and how far a worker is; return whether it is known."""
        now_s = time.monotonic()
        with self._changed:
            member = self._member(incarnation)
            if member is None or member.state == "left":
                return False
            if member.state == "lost":
                log.warning("%s is there again", _name(member))
            if isinstance(member, Worker):
                member = advance(now_s, member, progress)
            before, member = member, replace(member, state="live", heard_s=now_s)
            self._put(member)
            if _clock(before) != _clock(member):
                self._changed.notify_all()
        return True

    def leases_from(self) -> int:
        """Return the number below which all leases are over."""
        with self._changed:
            return self.groups.leases_from(self.readings.leases_from())

    def leave(self, incarnation: str) -> None:
        """Note that a member ends cleanly."""
        with self._changed:
            member = self._member(incarnation)
            if member is None or member.state == "left":
                return
            if isinstance(member, Server):
                self._database.server_left(member.number)
            else:
                self._database.forget_worker(member.client)
            self._put(replace(member, state="left"))
            self._changed.notify_all()
        log.info("%s has left", _name(member))

    def _member(self, incarnation: str) -> Server | Worker | None:
        return self._server_of(incarnation) or self._worker_of(incarnation)

    def _server_of(self, incarnation: str) -> Server | None:
        servers = self._state.servers.values()
        return next((s for s in servers if s.incarnation == incarnation), None)

    def _worker_of(self, incarnation: str) -> Worker | None:
        workers = self._state.workers.values()
        return next((w for w in workers if w.incarnation == incarnation), None)

    def _put(self, member: Server | Worker) -> None:
        """Add or replace a member of the state; called under the lock."""
        if isinstance(member, Server):
            servers = {**self._state.servers, member.number: member}
            self._state = replace(self._state, servers=servers)
        else:
            workers = {**self._state.workers, member.client: member}
            self._state = replace(self._state, workers=workers)

    def _forget_old_workers(self) -> None:
        workers = self._state.workers
        gone = [w.client for w in workers.values() if w.state in ("lost", "left")]
        for client in gone[: max(0, len(workers) - WORKERS_MAX + 1)]:
            self._database.forget_worker(client)
            workers = {c: w for c, w in workers.items() if c != client}
        self._state = replace(self._state, workers=workers)

    # -- routing ----------------------------------------------------------------------------------

    def wait_routing(self, after_version: int, wait_s: float) -> Routing:
        """Return a routing newer than `after_version`, waiting for it.

        Raises:
            Unavailable: slots are not placed.
            DeadlineExceeded: there is no newer one.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._state.routing.version > after_version or self._stopping.is_set(),
                wait_s,
            )
            if self._state.routing.version > after_version:
                return self.routing()
            if not self._state.routing.version:
                raise Unavailable(self._reason)
            raise DeadlineExceeded(
                f"no routing newer than {after_version} within {wait_s:g} s; {self._reason}"
            )

    def routing(self) -> Routing:
        """Return the present routing, its servers as they are now."""
        state = self._state
        servers = {number: state.servers[number].info() for number in state.routing.servers}
        return replace(state.routing, servers=servers)

    def server_routing(self) -> Routing:
        """Return the routing as a server must know it: before any worker does."""
        return self._pending or self.routing()

    # -- slots that move --------------------------------------------------------------------------

    def drain(self, number: int, incarnation: str = "") -> int:
        """Let others take the slots of a server; return how many it has. Again: no further effect.

        One that is named by its number is not to be replaced: one server less is wanted then.

        Raises:
            InvalidArgument: there is no such server, or no other to take them.
        """
        with self._changed:
            servers = self._state.servers
            server = self._server_of(incarnation) if incarnation else servers.get(number)
            if server is None or server.state == "left":
                known = sorted(n for n, s in servers.items() if s.state != "left")
                raise InvalidArgument(
                    f"drain: there is no server {incarnation or number}; it is one of {known}"
                )
            if not [s for s in staying(self._state) if s.number != server.number]:
                raise InvalidArgument(
                    f"drain: server {server.number} is the last one, nobody can take its slots; "
                    "start another with `embery ps` first"
                )
            if not server.draining:
                self._drain(server)
                wanted = self._state.wanted_servers
                if wanted > 1 and not incarnation:
                    self._want(wanted - 1)
            return int((self._state.routing.owners == server.number).sum())

    def scale(self, servers: int) -> None:
        """Set how many servers shall be there; drain those that are too many."""
        require_int("scale: --ps", servers, low=1, high=SLOT_COUNT)
        with self._changed:
            self._want(servers)
            surplus, reason = drains_wanted(self._state)
            for server in surplus:
                self._drain(server)
        log.info("%s", reason)

    def is_drained(self, incarnation: str) -> bool:
        """Return whether a server was drained and owns nothing that anyone could still ask for."""
        with self._changed:
            server = self._server_of(incarnation)
            if server is None or not server.draining or self._pending is not None:
                return False
            return has_drained(self._state, server)

    def next_move(self) -> Move | None:
        """Decide on the next move and record it; None if slots lie well, or are on their way."""
        with self._changed:
            if self._pending is not None:
                return None
            if self._state.move is not None:
                return self._state.move  # It could not be settled.
            # Asked for ten times a second, and decided anew if something is new.
            planned_for = (
                self._state.routing.version,
                [(s.number, s.state, s.draining) for s in self._state.servers.values()],
            )
            if planned_for == self._at_rest:
                return None
            move, self._move_reason = plan_move(self._state, self.options)
            self._at_rest = None if move is not None else planned_for
            if move is not None:
                self._database.begin_move(move)
                self._state = replace(self._state, move=move)
            return move

    def carry_out(self, move: Move) -> CopySlotsReply:
        """Let the source copy the slots; the target follows them then, and may be their backup."""
        source, target = (self._state.servers[n] for n in (move.source, move.target))
        return self._client(source.address).copy_slots(
            move.begin,
            move.end,
            target.info(),
            move.version,
            hand_over=move.hand_over,
            timeout_s=MOVE_TIMEOUT_S,
        )

    def settle(self, move: Move, *, moved: bool) -> None:
        """Decide whose the slots of a move are, for good, and tell everyone.

        A no-op if that was decided already, as when one of its servers was lost.
        """
        with self._changed:
            if self._state.move != move:
                return
            present = self._pending or self._state.routing
            version = present.version + 1
            owners, backups = present.owners.copy(), present.backups.copy()
            changed_at = present.changed_at.copy()
            if moved and move.hand_over:
                owners[move.begin : move.end] = move.target
                # Who had them keeps a copy: it has all that happened until now.
                copies = self.options.replicas > 1
                backups[move.begin : move.end] = move.source if copies else NO_SERVER
                changed_at[move.begin : move.end] = version
            elif moved:
                backups[move.begin : move.end] = move.target
            routing = self._decide(Routing(version, owners, backups, changed_at))
        self._tell(routing)

    def _decide(self, routing: Routing) -> Routing:
        """Record a routing, which ends any move; called under the lock. It is yet to be told."""
        routing = with_holders(self._state, routing)
        self._database.set_routing(routing)
        self._state = replace(self._state, move=None)
        self._pending = routing
        return routing

    def _want(self, servers: int) -> None:
        self._database.set_wanted(servers)
        self._state = replace(self._state, wanted_servers=servers)

    def _drain(self, server: Server) -> None:
        self._database.drain_server(server.number)
        self._put(replace(server, draining=True))
        self._changed.notify_all()
        log.info("server %d is drained", server.number)

    # -- watching ---------------------------------------------------------------------------------

    def _watch(self) -> None:
        waits_s = time.monotonic()
        while not self._stopping.wait(self.options.heartbeat_s / 2):
            try:
                with self._changed:
                    self._state = excuse(waits_s, time.monotonic(), self._state, self.options)
                self._tick(time.monotonic())
                waits_s = time.monotonic()
            except Exception:
                # A watch that ends would leave every later failure unseen.
                log.exception("watching the cluster failed; it is tried again")
        with self._changed:
            self._changed.notify_all()

    def _tick(self, now_s: float) -> None:
        self._probe(now_s)
        with self._changed:
            lost, reason = expire(now_s, self._state, self.options)
            for member in lost:
                self._put(replace(member, state="lost"))
                log.warning("%s", reason)
                self._changed.notify_all()
            self.readings.revoke(now_s, self._state.workers, self.options)
            # A routing that not all know yet is what the next one is made of.
            present = replace(self._state, routing=self._pending or self._state.routing)
            routing, reason = place(now_s, present, self.options)
            move = self._state.move
            if routing is None and move is not None and self._is_hopeless(move):
                version = present.routing.version + 1
                routing = replace(present.routing, version=version)
            if routing is not None:
                self._decide(routing)
            if reason != self._reason:
                log.info("%s", reason)
            self._reason = reason
            pending = self._pending
        if pending is not None:
            self._tell(pending)

    def _is_hopeless(self, move: Move) -> bool:
        """Return whether a server of a move is lost: nobody else would end it soon."""
        return any(self._state.servers[n].state != "live" for n in (move.source, move.target))

    def _probe(self, now_s: float) -> None:
        """Find out whether servers that are silent have ended: then nothing listens any more."""
        for server in overdue(now_s, self._state, self.options):
            if not has_ended(server.address):
                continue
            with self._changed:
                member = self._state.servers[server.number]
                if member.heard_s == server.heard_s and member.state == server.state:
                    self._put(replace(member, state="lost"))
                    log.warning("server %d has ended: nothing listens at %s", server.number,
                                server.address)  # fmt: skip

    def _tell(self, routing: Routing) -> None:
        """Tell the servers of a new routing, and then everyone; again later if one cannot be."""
        with self._telling:
            if self._pending is not routing:
                return  # Another thread has told it, and perhaps newer ones since.
            # Also those that own nothing (any more): they let go of what they had.
            present = {n: s.info() for n, s in self._state.servers.items() if s.state == "live"}
            absent = {n for n, s in self._state.servers.items() if s.state in ("lost", "left")}
            for server in {**present, **routing.servers}.values():
                # Who is lost hears of it when it is there again.
                if server.number in absent:
                    continue
                try:
                    self._client(server.address).set_routing(routing, timeout_s=SERVER_TIMEOUT_S)
                except EmberyError as error:
                    log.warning("server %d does not know its slots yet: %s", server.number, error)
                    return
            with self._changed:
                self._state = replace(self._state, routing=routing)
                # A newer one may have been decided meanwhile: it is yet to be told.
                if self._pending is routing:
                    self._pending = None
                self._reason = place(time.monotonic(), self._state, self.options)[1]
                self._changed.notify_all()

    def _client(self, address: str) -> ServerClient:
        with self._changed:
            if address not in self._clients:
                self._clients[address] = self._connect(address)
            return self._clients[address]

    # -- tables -----------------------------------------------------------------------------------

    def create_table(self, definition_json: str, wait_s: float) -> None:
        """Create a table on all live servers; a no-op if an equal one exists.

        Raises:
            InvalidArgument: the definition is none.
            SchemaMismatch: a table of this name has another definition.
            Unavailable: slots are not placed, or a live server cannot be reached; try again.
        """
        table = table_from_json(definition_json)
        definition = json.dumps(table.to_dict())
        self.wait_routing(0, wait_s)
        with self._creating:
            with self._changed:
                known = self._state.tables.get(table.name)
                if known is None:
                    self._database.add_table(table.name, definition)
                    tables = {**self._state.tables, table.name: definition}
                    self._state = replace(self._state, tables=tables)
                else:
                    require_same(table_from_json(known), table)
            # Told again even if it is known: the one who created it may have failed half way.
            for server in self.routing().servers.values():
                # Also one that a coordinator which was started again has not heard of yet.
                if server.state in ("joining", "live"):
                    self._client(server.address).create_table(
                        definition, timeout_s=SERVER_TIMEOUT_S
                    )

    def served_tables(self) -> list[str]:
        """Return the definitions of all tables, as JSON; the servers have been told of each."""
        with self._creating:
            return list(self._state.tables.values())


def _clock(member: Server | Worker) -> object:
    """Return what the bound of staleness depends on."""
    return (member.state, member.progress.clock) if isinstance(member, Worker) else None


def _name(member: Server | Worker) -> str:
    if isinstance(member, Server):
        return f"server {member.number}"
    return f"worker {member.rank} (client {member.client})"
