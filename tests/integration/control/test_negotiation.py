"""How a worker and a server agree on a transport, and what the in-band one carries."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embery as em
from embery.errors import InvalidArgument, Unavailable
from embery.ps.service import DataAddress, ServerService
from embery.ps.tables import ServedTables
from embery.rpc.client import ServerClient
from embery.rpc.credentials import Credentials
from embery.rpc.serving import RpcServer
from embery.rpc.v1.server_pb2_grpc import add_ServerServicer_to_server

SECRET = b"a secret of enough bytes"
TCP = DataAddress("127.0.0.1", 4242)
NO_TCP = DataAddress("", 0, "it is not encrypted, and this cluster uses TLS")


@pytest.fixture
def serve() -> Iterator[Callable[[DataAddress], ServerClient]]:
    """Return what serves with a data address, and returns a client."""
    running: list[tuple[RpcServer, ServedTables, ServerClient]] = []

    def serve_one(data: DataAddress) -> ServerClient:
        rpc = RpcServer("127.0.0.1", 0, Credentials())
        tables = ServedTables(3, SECRET, 1)
        add: Any = add_ServerServicer_to_server
        add(ServerService(3, tables, data, SECRET), rpc.grpc)
        rpc.start()
        running.append((rpc, tables, ServerClient(rpc.address)))
        return running[-1][2]

    yield serve_one
    for rpc, tables, client in running:
        client.close()
        tables.native.stop()
        rpc.stop()


def test_tcp_is_offered_with_address_and_secret(serve: Any) -> None:
    offer = serve(TCP).negotiate()
    assert (offer.number, offer.version, offer.transport) == (3, 1, "tcp")
    assert (offer.host, offer.port, offer.secret) == ("127.0.0.1", 4242, SECRET)


def test_grpc_gives_no_secret_away(serve: Any) -> None:
    offer = serve(TCP).negotiate("grpc")
    assert (offer.transport, offer.host, offer.secret) == ("grpc", "", b"")
    assert offer.reasons == ("tcp: grpc was asked for",)


def test_without_tcp_the_best_is_grpc_and_the_reason_is_told(serve: Any) -> None:
    client = serve(NO_TCP)
    offer = client.negotiate("auto")
    assert (offer.transport, offer.reasons) == ("grpc", (f"tcp: {NO_TCP.reason}",))
    with pytest.raises(Unavailable, match="tcp was asked for: it is not encrypted"):
        client.negotiate("tcp")


def test_versions_that_do_not_match_are_told_apart(serve: Any) -> None:
    client = serve(TCP)
    assert client.negotiate(versions=(1, 2)).version == 1
    with pytest.raises(InvalidArgument, match=r"versions \[7, 8\].*expected one of \[1\]"):
        client.negotiate(versions=(7, 8))
    with pytest.raises(InvalidArgument, match="'pigeon'"):
        client.negotiate("pigeon")


def test_a_malformed_frame_is_an_error_of_its_call_only(serve: Any) -> None:
    client = serve(TCP)
    for frame in (b"nonsense", b"x" * (5 << 20)):
        with pytest.raises(InvalidArgument):
            client.call(frame)
    client.create_table(json.dumps(em.Table("item", dim=4).to_dict()))
    assert client.table_stats("item")["rows"] == 0


def test_rows_travel_in_a_cluster_of_tls(
    start: Callable[..., Any],
    start_coordinator: Callable[..., Any],
    certificates: dict[str, Path],
) -> None:
    credentials = {f"EMBERY_TLS_{n.upper()}": str(certificates[n]) for n in ("cert", "key", "ca")}
    arguments = [f"--tls-{n}={certificates[n]}" for n in ("cert", "key", "ca")]
    _, url = start_coordinator(*arguments)
    start("ps", "--coordinator", url, **credentials).line()
    keys = np.arange(100_000, dtype=np.uint64)
    with em.connect(
        url, transport="grpc", credentials=Credentials.from_environment(credentials)
    ) as store:
        store.create_table(em.Table("item", dim=32, optimizer=em.optim.SGD(lr=1.0)))
        before = store.pull("item", keys)
        store.push("item", keys, np.ones_like(before))
        assert (store.pull("item", keys) == before - 1).all()
