"""What outlives the coordinator: a SQLite file, each change of it durable before it is told.

Format 4. A file of another format, or one that another coordinator has open, is refused.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace

import numpy as np

from embery.coordinator.state import (
    ClusterState,
    Gathering,
    Group,
    Move,
    Piece,
    Reading,
    Server,
    Worker,
)
from embery.errors import Internal, InvalidArgument, ResourceExhausted, Unavailable
from embery.rpc.records import Routing

FORMAT = 4
SECRET_BYTES = 32
SERVER_NUMBER_MAX = 2**16 - 1
IN_MEMORY = ":memory:"
_SCHEMA = """
CREATE TABLE cluster (id TEXT NOT NULL, secret BLOB NOT NULL);
CREATE TABLE servers (
    number INTEGER PRIMARY KEY, incarnation TEXT NOT NULL UNIQUE, address TEXT NOT NULL,
    host_identity TEXT NOT NULL, has_left INTEGER NOT NULL DEFAULT 0,
    draining INTEGER NOT NULL DEFAULT 0);
CREATE TABLE workers (
    client INTEGER PRIMARY KEY AUTOINCREMENT, incarnation TEXT NOT NULL UNIQUE,
    rank INTEGER NOT NULL, world_size INTEGER NOT NULL);
CREATE TABLE tables (
    ordinal INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, definition TEXT NOT NULL);
CREATE TABLE moves (
    slot_begin INTEGER NOT NULL, slot_end INTEGER NOT NULL, source INTEGER NOT NULL,
    target INTEGER NOT NULL, version INTEGER NOT NULL, hand_over INTEGER NOT NULL);
CREATE TABLE wanted (servers INTEGER NOT NULL);
CREATE TABLE readings (
    ordinal INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, plan TEXT NOT NULL,
    count INTEGER NOT NULL, first_lease INTEGER NOT NULL, stopped INTEGER NOT NULL,
    error TEXT NOT NULL);
CREATE TABLE lease_numbers (next INTEGER NOT NULL);
CREATE TABLE wanted_workers (workers INTEGER NOT NULL);
CREATE TABLE groups (epoch INTEGER PRIMARY KEY, description TEXT NOT NULL);
CREATE TABLE pieces (
    reading TEXT NOT NULL, number INTEGER NOT NULL, done INTEGER NOT NULL,
    finished INTEGER NOT NULL, token INTEGER NOT NULL, holder INTEGER, failures INTEGER NOT NULL,
    lease INTEGER NOT NULL,
    PRIMARY KEY (reading, number)) WITHOUT ROWID;
CREATE TABLE routing (
    version INTEGER PRIMARY KEY, owners BLOB NOT NULL, backups BLOB NOT NULL,
    changed_at BLOB NOT NULL);
"""


class Database:
    """The durable part of a `ClusterState`. Calls must not overlap.

    Args:
        path: of the file, made if it is not there; ":memory:" keeps nothing.

    Raises:
        Unavailable: the file cannot be opened, or another process has it.
        InvalidArgument: it is something else than the state of a coordinator.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            self._connection = sqlite3.connect(
                path, timeout=1.0, isolation_level=None, check_same_thread=False
            )
            # The lock is taken by the first write and then kept: two coordinators of one state
            # would both decide.
            self._connection.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")
            self._prepare()
        except sqlite3.OperationalError as error:
            raise self._unavailable(error) from None
        except sqlite3.DatabaseError as error:
            raise InvalidArgument(
                f"--state {path}: not the state of a coordinator ({error}); name another file"
            ) from None

    def _prepare(self) -> None:
        with self._transaction():
            (found,) = self._connection.execute("PRAGMA user_version").fetchone()
            (tables,) = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if found == 0 and tables == 0:
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    self._connection.execute(statement)
                self._connection.execute(
                    "INSERT INTO cluster VALUES (?, ?)",
                    (uuid.uuid4().hex, secrets.token_bytes(SECRET_BYTES)),
                )
                self._connection.execute("INSERT INTO lease_numbers VALUES (1)")
                self._connection.execute(f"PRAGMA user_version={FORMAT}")
            elif found != FORMAT:
                raise InvalidArgument(
                    f"--state {self._path}: format {found}, expected {FORMAT}; name another file, "
                    "or use the version of embery that wrote it"
                )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                # SQLite itself ends a transaction that ran out of disk.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
        except sqlite3.OperationalError as error:
            raise self._unavailable(error) from None

    def _unavailable(self, error: sqlite3.OperationalError) -> Unavailable:
        return Unavailable(
            f"--state {self._path}: {error}; is the folder there, with room and no other "
            "coordinator using it?"
        )

    def load(self, now_s: float) -> ClusterState:
        """Return the state as of the last change; nobody was heard of since before `now_s`."""
        rows = self._connection.execute
        (cluster_id, secret) = rows("SELECT id, secret FROM cluster").fetchone()
        servers = {
            number: Server(
                number, inc, address, host, "left" if left else "joining", now_s, bool(draining)
            )
            for number, inc, address, host, left, draining in rows(
                "SELECT number, incarnation, address, host_identity, has_left, draining "
                "FROM servers"
            )
        }
        workers = {
            client: Worker(client, incarnation, rank, size, "registered", now_s)
            for client, incarnation, rank, size in rows(
                "SELECT client, incarnation, rank, world_size FROM workers"
            )
        }
        tables = dict(rows("SELECT name, definition FROM tables ORDER BY ordinal").fetchall())
        routing = Routing.unplaced({})
        latest = rows(
            "SELECT version, owners, backups, changed_at FROM routing ORDER BY version DESC LIMIT 1"
        ).fetchone()
        if latest is not None:
            owners = np.frombuffer(latest[1], "<u2").astype(np.uint16)
            backups = np.frombuffer(latest[2], "<u2").astype(np.uint16)
            changed_at = np.frombuffer(latest[3], "<u8").astype(np.uint64)
            routing = Routing(latest[0], owners, backups, changed_at)
            holders = {n: servers[n].info() for n in sorted(routing.holders())}
            routing = replace(routing, servers=holders)
        move = rows(
            "SELECT slot_begin, slot_end, source, target, version, hand_over FROM moves"
        ).fetchone()
        wanted = rows("SELECT servers FROM wanted").fetchone()
        return ClusterState(
            cluster_id,
            secret,
            routing,
            servers,
            workers,
            tables,
            None if move is None else Move(*move),
            0 if wanted is None else wanted[0],
        )

    def add_server(self, incarnation: str, address: str, host_identity: str) -> int:
        """Record a server and return its number, the next free one."""
        with self._transaction():
            (number,) = self._connection.execute(
                "SELECT coalesce(max(number) + 1, 0) FROM servers"
            ).fetchone()
            if number > SERVER_NUMBER_MAX:
                raise ResourceExhausted(
                    f"this cluster has had {number} servers, and numbers end there; start a new "
                    "one with another --state"
                )
            self._connection.execute(
                "INSERT INTO servers (number, incarnation, address, host_identity) "
                "VALUES (?, ?, ?, ?)",
                (number, incarnation, address, host_identity),
            )
        return int(number)

    def server_left(self, number: int) -> None:
        """Record that a server ended cleanly."""
        with self._transaction():
            self._connection.execute("UPDATE servers SET has_left=1 WHERE number=?", (number,))

    def drain_server(self, number: int) -> None:
        """Record that a server gives its slots away."""
        with self._transaction():
            self._connection.execute("UPDATE servers SET draining=1 WHERE number=?", (number,))

    def set_wanted(self, servers: int) -> None:
        """Record how many servers shall be there."""
        with self._transaction():
            self._connection.execute("DELETE FROM wanted")
            self._connection.execute("INSERT INTO wanted VALUES (?)", (servers,))

    def set_wanted_workers(self, workers: int) -> None:
        """Record how many workers shall be there."""
        with self._transaction():
            self._connection.execute("DELETE FROM wanted_workers")
            self._connection.execute("INSERT INTO wanted_workers VALUES (?)", (workers,))

    def set_group(self, group: Group) -> None:
        """Record the group of workers, which replaces the one before."""
        text = json.dumps({**asdict(group), "fenced": sorted(group.fenced)})
        with self._transaction():
            self._connection.execute("DELETE FROM groups")
            self._connection.execute("INSERT INTO groups VALUES (?, ?)", (group.epoch, text))

    def load_group(self) -> Gathering:
        """Return the group of workers, and how many are wanted, as of the last change."""
        row = self._connection.execute("SELECT description FROM groups").fetchone()
        wanted = self._connection.execute("SELECT workers FROM wanted_workers").fetchone() or (0,)
        if row is None:
            return Gathering(Group(), wanted=wanted[0])
        fields = json.loads(row[0])
        members, fenced = tuple(fields.pop("members")), frozenset(fields.pop("fenced"))
        return Gathering(Group(**fields, members=members, fenced=fenced), wanted=wanted[0])

    def begin_move(self, move: Move) -> None:
        """Record that slots are on their way; the next routing ends that."""
        with self._transaction():
            self._connection.execute("DELETE FROM moves")
            self._connection.execute(
                "INSERT INTO moves VALUES (?, ?, ?, ?, ?, ?)",
                (
                    move.begin,
                    move.end,
                    move.source,
                    move.target,
                    move.version,
                    move.hand_over,
                ),
            )

    def add_worker(self, incarnation: str, rank: int, world_size: int) -> int:
        """Record a worker and return its client number, which no other ever had."""
        with self._transaction():
            cursor = self._connection.execute(
                "INSERT INTO workers (incarnation, rank, world_size) VALUES (?, ?, ?)",
                (incarnation, rank, world_size),
            )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def forget_worker(self, client: int) -> None:
        """Forget a worker that has gone; its number is not given again."""
        with self._transaction():
            self._connection.execute("DELETE FROM workers WHERE client=?", (client,))

    def add_table(self, name: str, definition: str) -> None:
        """Record a table."""
        with self._transaction():
            self._connection.execute(
                "INSERT INTO tables (name, definition) VALUES (?, ?)", (name, definition)
            )

    def set_routing(self, routing: Routing) -> None:
        """Record a routing, newer than the one before, which it replaces; no move is under way."""
        with self._transaction():
            (latest,) = self._connection.execute("SELECT max(version) FROM routing").fetchone()
            if latest is not None and latest >= routing.version:
                raise Internal(
                    f"routing {routing.version} was decided, but {latest} is in force already"
                )
            self._connection.execute("DELETE FROM moves")
            self._connection.execute("DELETE FROM routing")
            self._connection.execute(
                "INSERT INTO routing VALUES (?, ?, ?, ?)",
                (
                    routing.version,
                    routing.owners.astype("<u2").tobytes(),
                    routing.backups.astype("<u2").tobytes(),
                    routing.changed_at.astype("<u8").tobytes(),
                ),
            )

    def reserve_leases(self, count: int) -> int:
        """Return the first of `count` numbers of leases that follow one another, never used yet."""
        with self._transaction():
            first = self.next_lease()
            self._connection.execute("UPDATE lease_numbers SET next=?", (first + count,))
        return first

    def next_lease(self) -> int:
        """Return the number that the next lease will have."""
        (number,) = self._connection.execute("SELECT next FROM lease_numbers").fetchone()
        return int(number)

    def load_readings(self) -> dict[str, Reading]:
        """Return the readings as of the last change, the oldest first."""
        rows = self._connection.execute
        found = {
            name: Reading(name, plan, count, {}, bool(stopped), error, first_lease)
            for name, plan, count, stopped, error, first_lease in rows(
                "SELECT name, plan, count, stopped, error, first_lease FROM readings "
                "ORDER BY ordinal"
            )
        }
        for name, number, done, finished, token, holder, failures, lease in rows(
            "SELECT reading, number, done, finished, token, holder, failures, lease FROM pieces"
        ):
            found[name].pieces[number] = Piece(
                number, done, bool(finished), token, holder, failures, lease
            )
        return found

    def put_reading(self, reading: Reading, changed: Iterable[Piece]) -> None:
        """Record a reading and those of its pieces that have changed."""
        with self._transaction():
            self._connection.execute(
                "INSERT INTO readings (name, plan, count, first_lease, stopped, error) "
                "VALUES (?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (name) DO UPDATE SET stopped=excluded.stopped, error=excluded.error",
                (
                    reading.name,
                    reading.plan,
                    reading.count,
                    reading.first_lease,
                    reading.stopped,
                    reading.error,
                ),
            )
            self._connection.executemany(
                "INSERT OR REPLACE INTO pieces VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        reading.name,
                        p.number,
                        p.done,
                        p.finished,
                        p.token,
                        p.holder,
                        p.failures,
                        p.lease,
                    )
                    for p in changed
                ],
            )

    def forget_reading(self, name: str) -> None:
        """Forget a reading and its pieces."""
        with self._transaction():
            self._connection.execute("DELETE FROM pieces WHERE reading=?", (name,))
            self._connection.execute("DELETE FROM readings WHERE name=?", (name,))

    def close(self) -> None:
        """Close the file."""
        self._connection.close()
