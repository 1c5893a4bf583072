"""A table of a running cluster, for `embery inspect`: asked of the servers that own its rows."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import numpy as np

from embery.errors import TableNotFound, Unavailable
from embery.routing import slots_of
from embery.rpc.client import ClusterStatus, CoordinatorClient
from embery.rpc.credentials import Credentials
from embery.rpc.server_client import ServerClient

TIMEOUT_S = 10.0
# A row is looked for on so many servers that have its slot one after the other.
MOVES_MAX = 8


class LiveTable:
    """Asks from within the context of `of`. Not thread-safe.

    Args:
        coordinator: of the cluster.
        status: what it said last, with slots placed and the table among its tables.
    """

    def __init__(
        self,
        coordinator: CoordinatorClient,
        status: ClusterStatus,
        table: str,
        credentials: Credentials,
    ) -> None:
        self.where = coordinator.url
        self._coordinator = coordinator
        self._status = status
        self._table = table
        self._credentials = credentials

    @staticmethod
    @contextmanager
    def of(url: str, table: str, credentials: Credentials) -> Iterator[LiveTable]:
        """Yield the table of that name in the cluster at `url`.

        Raises:
            Unavailable: the cluster cannot be reached, or has not placed its slots.
            TableNotFound: it has no such table.
        """
        with closing(CoordinatorClient(url, credentials, TIMEOUT_S)) as coordinator:
            status = coordinator.status()
            if not status.routing.version:
                raise Unavailable(f"{url}: {status.reason}")
            names = sorted(definition["name"] for definition in status.tables)
            if table not in names:
                raise TableNotFound(f"{url}: no table {table!r}; the cluster has {names}")
            yield LiveTable(coordinator, status, table, credentials)

    def row(self, key: int) -> dict[str, Any] | None:
        """Return a row as `Store.inspect` does, with the "server" that holds it; None without.

        Raises:
            Unavailable: its server cannot be reached, or its slot is never where it was.
        """
        slot = int(slots_of(self._table, np.array([key], np.uint64))[0])
        for _ in range(MOVES_MAX):
            owner = int(self._status.routing.owners[slot])
            with self._server(owner) as server:
                row = server.inspect(self._table, key)
            if row is not None:
                return {**row, "server": owner, "address": server.address}
            # The slot may have moved since; then its rows are not there any more.
            self._status = self._coordinator.status()
            if self._status.routing.owners[slot] == owner:
                return None
        raise Unavailable(f"slot {slot} moved {MOVES_MAX} times while it was asked for; try again")

    def statistics(self) -> dict[str, Any]:
        """Return the definition, the counters over all servers, and each server's rows."""
        definition = next(t for t in self._status.tables if t["name"] == self._table)
        counters: dict[str, int] = {}
        servers = []
        for number in np.unique(self._status.routing.owners).tolist():
            with self._server(number) as server:
                own = server.table_stats(self._table)
            servers.append({"server": number, "rows": own["rows"], "bytes": own["bytes"]})
            for name, value in own.items():
                # Steps are counted alike by all servers; one that came later counts fewer.
                join = max if name == "step" else operator.add
                counters[name] = join(counters.get(name, 0), value)
        return {
            "routing_version": self._status.routing.version,
            "definition": definition,
            "counters": counters,
            "servers": servers,
        }

    @contextmanager
    def _server(self, number: int) -> Iterator[ServerClient]:
        address = self._status.routing.servers[number].address
        with closing(ServerClient(address, self._credentials, TIMEOUT_S)) as server:
            yield server
