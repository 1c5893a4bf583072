"""The tables of a server: definitions by name, rows in a store that the data plane serves."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

from embery import _native
from embery.errors import TableNotFound
from embery.row_store import inspect_row
from embery.rpc.records import Routing, table_from_json
from embery.table import Table, require_same

EVICTIONS_REMEMBERED = 1024


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
        self._routing_version = 0
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
                self.native.set_routing(routing.version, routing.owners, routing.changed_at)
                self._routing_version = routing.version
            return self._routing_version

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
                self._evictions[request_id] = self.store.evict(table_id, now_s)
                if len(self._evictions) > EVICTIONS_REMEMBERED:
                    self._evictions.popitem(last=False)
            return self._evictions[request_id]

    def deletions(self, name: str) -> int:
        """Return how many rows of a table were ever deleted."""
        return self.store.deletions(self._find(name)[0])
