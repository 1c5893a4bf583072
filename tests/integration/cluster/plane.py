"""Servers and a client of the native data plane in this process, over any transport."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import embery as em
from embery import _native
from embery.rpc.records import no_backups
from embery.rpc.transports import rdma_choice

SECRET = b"a secret of enough bytes"
SLOTS = 4096
NO_BACKUPS = no_backups()
NOW_S = 1_700_000_000
TIMEOUT_S = 30.0


def owners_of(servers: int) -> NDArray[np.uint16]:
    """Share the slots out in contiguous ranges."""
    return np.asarray(np.arange(SLOTS) * servers // SLOTS, np.uint16)


class Plane:
    """`servers` servers with the same tables, and clients that reach them."""

    def __init__(self, tables: Sequence[em.Table], *, servers: int, transport: str) -> None:
        self.transport = transport
        self.tables = {table.name: table for table in tables}
        self.stores, self.servers = [], []
        self.addresses: list[Any] = []
        self.owners = owners_of(servers)
        for number in range(servers):
            store = _native.Store(1, "auto")
            server = _native.Server(store, server=number, secret=SECRET, threads=2)
            for table in tables:
                table_id = store.create_table(table.to_dict())
                server.add_table(_native.table_salt(table.name), table_id)
            server.set_routing(1, self.owners, NO_BACKUPS, np.ones(SLOTS, np.uint64))
            self.stores.append(store)
            self.servers.append(server)
            self.addresses.append(self._listen(server))
        self.sequence = 0

    def _listen(self, server: Any) -> Any:
        if self.transport == "tcp":
            return server.listen_tcp("127.0.0.1", 0)
        if self.transport == "rdma":
            return server.listen_rdma(*rdma_choice())
        return server.listen_shm() if self.transport == "shm" else None

    def client(self, number: int = 1, *, owners: NDArray[np.uint16] | None = None) -> Any:
        client = _native.Client(number)
        for server in range(len(self.servers)):
            self.connect(client, server)
        client.set_routing(1, self.owners if owners is None else owners)
        return client

    def set_wire(
        self,
        client: Any,
        table: str,
        *,
        rows: str = "float32",
        grads: str = "float32",
        residual_rows_max: int = 1000,
    ) -> None:
        dim = self.tables[table].dim
        client.set_wire(_native.table_salt(table), dim, rows, grads, residual_rows_max)

    def move(self, version: int, owners: NDArray[np.uint16]) -> None:
        """Give all servers another routing, of which no client hears."""
        for server in self.servers:
            server.set_routing(version, owners, NO_BACKUPS, np.full(SLOTS, version, np.uint64))

    def connect(self, client: Any, server: int) -> None:
        address = self.addresses[server]
        if self.transport == "tcp":
            client.connect_tcp(server, "127.0.0.1", address, SECRET, TIMEOUT_S)
        elif self.transport == "shm":
            client.connect_shm(server, address, SECRET, TIMEOUT_S)
        elif self.transport == "rdma":
            exchange = self.servers[server].accept_rdma
            client.connect_rdma(server, exchange, SECRET, TIMEOUT_S, *rdma_choice())
        else:
            client.connect_call(server, self.servers[server].handle)

    def arguments(self, names: Sequence[str]) -> tuple[list[int], list[int]]:
        return [_native.table_salt(n) for n in names], [self.tables[n].dim for n in names]

    def pull(
        self, client: Any, keys: dict[str, NDArray[Any]], mode: str = "train"
    ) -> dict[str, NDArray[Any]]:
        salts, dims = self.arguments(list(keys))
        out = [
            np.full((len(k), d), np.nan, np.float32)
            for k, d in zip(keys.values(), dims, strict=True)
        ]
        refused = client.pull(salts, dims, list(keys.values()), out, None, mode, NOW_S, TIMEOUT_S)
        assert refused == 0
        return dict(zip(keys, out, strict=True))

    def push(
        self,
        client: Any,
        keys: dict[str, NDArray[Any]],
        grads: dict[str, NDArray[Any]],
        *,
        group: tuple[int, int, int] = (0, 0, 1),
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        salts, dims = self.arguments(list(keys))
        self.sequence += 1
        turn, rank, world = group
        refused = client.push(
            salts, dims, list(keys.values()), [grads[n] for n in keys], sequence=self.sequence,
            round=turn, rank=rank, world=world, now_s=NOW_S, timeout_s=timeout_s,
        )  # fmt: skip
        assert refused == 0

    def rows(self, table: str) -> dict[int, tuple[Any, ...]]:
        """Return all that the servers hold of a table, by key."""
        return {
            key: row
            for store in self.stores
            for key, row in rows_of(store, list(self.tables).index(table)).items()
        }

    def stop(self) -> None:
        for server in self.servers:
            server.stop()


def rows_of(store: Any, table_id: int) -> dict[int, tuple[Any, ...]]:
    columns = store.export_rows(table_id, 0, SLOTS)
    return {
        int(key): tuple(columns[c][i].tobytes() for c in sorted(columns) if c != "key")
        for i, key in enumerate(columns["key"])
    }
