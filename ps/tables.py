"""The tables of a server: definitions by name, rows in a store that the data plane serves."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any, NamedTuple

import numpy as np

from embery import _native
from embery.errors import InvalidArgument, TableNotFound, Unavailable
from embery.routing import SLOT_COUNT
from embery.row_store import inspect_row
from embery.rpc.records import Routing, table_from_json
from embery.table import Table, require_same

EVICTIONS_REMEMBERED = 1024


class SlotRange(NamedTuple):
    """Slots [begin, end) of one group."""

    begin: int
    end: int

    def __str__(self) -> str:
        return f"{self.begin} to {self.end - 1}"


class ServedTables:
    """Thread-safe.

    Args:
        number: of this server in the routing.
        secret: that a data connection must show.
        threads: of the store, and as many that serve connections.
    """

    def __init__(self, number: int, secret: bytes, threads: int) -> None:
        self.store = _native.Store(threads, "auto")
        self.native = _native.Server(self.store, server=number, secret=secret, threads=threads)
        self._lock = threading.Lock()
        self._tables: dict[str, tuple[int, Table]] = {}
        self._number = number
        self._routing_version = 0
        self._owned = np.zeros(SLOT_COUNT, np.bool_)
        # Held while it is settled where slots are: by a checkpoint, and by a move that has frozen
        # slots until the routing that follows it.
        self._settled = threading.Lock()
        self._held_version: int | None = None
        # Of the checkpoint that all rows here were last saved in or restored from.
        self.seal = ""
        # What an eviction that is asked for again has done already, by its request.
        self._evictions: OrderedDict[str, int] = OrderedDict()

    @property
    def count(self) -> int:
        """Return how many tables there are."""
        return len(self._tables)

    @property
    def names(self) -> list[str]:
        """Return the names of all tables."""
        return list(self._tables)

    @property
    def routing_version(self) -> int:
        """Return the version of the routing in force; 0 before the first."""
        return self._routing_version

    def create(self, definition_json: str) -> None:
        """Create a table and serve it; a no-op if an equal one exists.

        Raises:
            InvalidArgument: the definition is none.
            SchemaMismatch: a table of this name has another definition.
        """
        table = table_from_json(definition_json)
        with self._lock:
            known = self._tables.get(table.name)
            if known is not None:
                require_same(known[1], table)
                return
            table_id = self.store.create_table(table.to_dict())
            self.native.add_table(_native.table_salt(table.name), table_id)
            self._tables = {**self._tables, table.name: (table_id, table)}

    def follow(self, routing: Routing) -> int:
        """Serve by `routing` unless a newer one is in force; return the version in force."""
        with self._lock:
            if routing.version > self._routing_version:
                self.native.set_routing(
                    routing.version, routing.owners, routing.backups, routing.changed_at
                )
                self._owned = routing.owners == self._number
                self._routing_version = routing.version
                if self._held_version is not None and self._held_version < routing.version:
                    self._held_version = None
                    self._settled.release()
            return self._routing_version

    # -- slots that move --------------------------------------------------------------------------

    def require_owned(self, slots: SlotRange, version: int) -> None:
        """Raise `InvalidArgument` unless this server owns slots, by the routing of `version`."""
        with self._lock:
            if version != self._routing_version or not self._owned[slots.begin : slots.end].all():
                raise InvalidArgument(
                    f"slots {slots} are not all of server {self._number} in routing {version}; it "
                    f"knows routing {self._routing_version}"
                )

    def freeze(self, slots: SlotRange, version: int) -> None:
        """Refuse changes of slots until a routing newer than `version`, which must be in force."""
        with self._lock:
            if version != self._routing_version:
                raise Unavailable(f"routing {self._routing_version} has ended the move of {slots}")
            self.native.freeze_slots(slots.begin, slots.end)

    def check(self, name: str, slots: SlotRange, *, copies: bool = False) -> tuple[int, int]:
        """Return the number of rows in slots of a table, or in copies of them, and a checksum."""
        return self.store.check_slots(self.id_of(name), *slots, copies)

    def hold_routing(self, version: int, wait_s: float) -> bool:
        """Keep checkpoints out until the routing after `version`; False if one does not end."""
        if not self._settled.acquire(timeout=wait_s):
            return False
        with self._lock:
            self._held_version = version
            if version == self._routing_version:
                return True
        self.release_routing(version)
        return False

    def release_routing(self, version: int) -> None:
        """Let checkpoints in again, unless a newer routing has done so."""
        with self._lock:
            if self._held_version == version:
                self._held_version = None
                self._settled.release()

    def settle(self, wait_s: float) -> int | None:
        """Keep slots where they are, until `unsettle`; return the version of the routing.

        None if they are on their way, and do not arrive in time.
        """
        return self._routing_version if self._settled.acquire(timeout=wait_s) else None

    def unsettle(self) -> None:
        """Let slots move again."""
        self._settled.release()

    def _find(self, name: str) -> tuple[int, Table]:
        try:
            return self._tables[name]
        except KeyError:
            known = ", ".join(sorted(self._tables)) or "none"
            raise TableNotFound(f"no table {name!r} on this server; tables: {known}") from None

    def id_of(self, name: str) -> int:
        """Return the store's id of a table; raise `TableNotFound` if there is none."""
        return self._find(name)[0]

    def stats(self, name: str) -> dict[str, int]:
        """Return the counters of a table; "" returns those of the data plane."""
        return self.store.stats(self._find(name)[0]) if name else self.native.stats()

    def inspect(self, name: str, key: int) -> dict[str, Any] | None:
        """Return the row as `Store.inspect` does, or None if it does not exist."""
        table_id, table = self._find(name)
        return inspect_row(self.store, table_id, table, key)

    def evict(self, name: str, now_s: int, request_id: str) -> int:
        """Apply the table's eviction policy, once a request; return how many rows went."""
        table_id, _ = self._find(name)
        with self._lock:
            if request_id not in self._evictions:
                self._evictions[request_id] = self.native.evict(table_id, now_s)
                if len(self._evictions) > EVICTIONS_REMEMBERED:
                    self._evictions.popitem(last=False)
            return self._evictions[request_id]

    def deletions(self, name: str) -> int:
        """Return how many rows of a table were ever deleted."""
        return self.store.deletions(self._find(name)[0])
