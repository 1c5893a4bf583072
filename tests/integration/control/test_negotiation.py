"""How a worker and a server agree on a transport, and what the in-band one carries."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embery as em
from embery import _native
from embery.errors import InvalidArgument, Unavailable
from embery.ps.links import Links
from embery.ps.service import DataPlane, ServerService
from embery.ps.tables import ServedTables
from embery.rpc.address import host_identity
from embery.rpc.credentials import Credentials
from embery.rpc.server_client import ServerClient
from embery.rpc.serving import RpcServer
from embery.rpc.transports import connect
from embery.rpc.v1 import server_pb2 as s
from embery.rpc.v1.server_pb2_grpc import add_ServerServicer_to_server

SECRET = b"a secret of enough bytes"
SHM = s.Offer(shm=s.ShmOffer(socket="embery-nowhere"))
RDMA = s.Offer(rdma=s.RdmaOffer(device="rxe0 port 1 as 10.77.0.1"))
TCP = s.Offer(tcp=s.TcpOffer(host="127.0.0.1", port=1))
NO_TCP = "tcp: it is not encrypted, and this cluster uses TLS"
ALL = DataPlane((SHM, TCP), (), host_identity())


@pytest.fixture
def serve() -> Iterator[Callable[[DataPlane], ServerClient]]:
    """Return what serves with a data address, and returns a client."""
    running: list[tuple[RpcServer, ServedTables, ServerClient]] = []

    def serve_one(data: DataPlane) -> ServerClient:
        rpc = RpcServer("127.0.0.1", 0, Credentials())
        tables = ServedTables(3, SECRET, 1)
        add: Any = add_ServerServicer_to_server
        add(ServerService(3, tables, Links(tables, Credentials()), data, SECRET), rpc.grpc)
        rpc.start()
        running.append((rpc, tables, ServerClient(rpc.address)))
        return running[-1][2]

    yield serve_one
    for rpc, tables, client in running:
        client.close()
        tables.native.stop()
        rpc.stop()


def test_offers_come_best_first_with_what_opens_them(serve: Any) -> None:
    terms = serve(ALL).negotiate()
    assert (terms.number, terms.version, terms.secret) == (3, 2, SECRET)
    assert (terms.offers, terms.reasons) == ((SHM, TCP), ())


def test_memory_is_offered_on_the_same_machine_only(serve: Any) -> None:
    terms = serve(DataPlane((SHM, TCP), (), "another boot")).negotiate()
    assert (terms.offers, terms.reasons) == ((TCP,), ("shm: worker and server share no host",))


def test_the_first_that_can_be_had_is_taken_and_reasons_are_kept(serve: Any) -> None:
    client, server = _native.Client(7), serve(ALL)
    name, reasons = connect(client, 3, server, "auto", 10.0)
    assert name == "grpc"
    assert [reason.partition(":")[0] for reason in reasons] == ["shm", "tcp"]
    assert all("Connection refused" in reason for reason in reasons)
    assert connect(client, 3, server, "grpc", 10.0)[0] == "grpc"


@pytest.mark.parametrize("wanted", ["shm", "tcp"])
def test_a_transport_that_is_asked_for_is_had_or_the_reason_told(serve: Any, wanted: str) -> None:
    client = _native.Client(7)
    refused = f"transport {wanted} to server 3 .* cannot be had: {wanted}: .*Connection refused"
    with pytest.raises(Unavailable, match=refused):
        connect(client, 3, serve(ALL), wanted, 10.0)
    with pytest.raises(Unavailable, match=f"{wanted}.*does not offer it"):
        connect(client, 3, serve(DataPlane((), (), host_identity())), wanted, 10.0)
    with pytest.raises(Unavailable, match="cannot be had: tcp: it is not encrypted"):
        connect(client, 3, serve(DataPlane((), (NO_TCP,), host_identity())), "tcp", 10.0)


def test_rdma_without_a_fit_device_is_passed_over_or_told(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBERY_RDMA_DEVICE", "no-such-device")
    client, server = _native.Client(7), serve(DataPlane((RDMA,), (), host_identity()))
    name, reasons = connect(client, 3, server, "auto", 10.0)
    assert (name, len(reasons)) == ("grpc", 1)
    reason = "rdma: (no RDMA device|libibverbs.so.1 is not installed)"
    assert re.match(reason, reasons[0])
    with pytest.raises(Unavailable, match=f"transport rdma .* cannot be had: {reason}"):
        connect(client, 3, server, "rdma", 10.0)


def test_a_server_without_rdma_refuses_an_end_of_it(serve: Any) -> None:
    with pytest.raises(Unavailable, match="does not listen for RDMA"):
        serve(ALL).connect_rdma(b"nonsense")


def test_versions_that_do_not_match_are_told_apart(serve: Any) -> None:
    client = serve(ALL)
    assert client.negotiate(versions=(1, 2)).version == 2
    with pytest.raises(InvalidArgument, match=r"versions \[7, 8\].*expected one of \[2\]"):
        client.negotiate(versions=(7, 8))


def test_a_malformed_frame_is_an_error_of_its_call_only(serve: Any) -> None:
    client = serve(ALL)
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
