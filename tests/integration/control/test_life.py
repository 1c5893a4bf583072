"""Roles as processes: they start, find each other, are lost, come back, end."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embery as em
from embery.errors import InvalidArgument, SchemaMismatch, TableNotFound, Unavailable
from embery.rpc.client import CoordinatorClient
from embery.rpc.server_client import ServerClient

Start = Callable[..., Any]
DEADLINE_S = 20.0
TABLE = em.Table("item", dim=4, optimizer=em.optim.SGD(lr=1.0))
DEFINITION = json.dumps(TABLE.to_dict())


def states(client: CoordinatorClient) -> dict[int, str]:
    """Return the state of each server; none while the coordinator cannot be reached."""
    try:
        servers = client.status().routing.servers
    except Unavailable:
        return {}
    return {number: str(server.state) for number, server in servers.items()}


def wait_for(condition: Callable[[], bool]) -> None:
    """Ask until it holds; each call asks a coordinator, which takes its time."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline


def test_slots_are_placed_when_all_expected_servers_are_there(
    start: Start, start_coordinator: Start
) -> None:
    _, url = start_coordinator("--expect-ps", "2")
    client = CoordinatorClient(url)
    first = start("ps", "--coordinator", url)
    assert first.line().startswith("ps 0 ready at 127.0.0.1:")
    with pytest.raises(Unavailable, match="waiting for 1 of 2 servers"):
        client.routing(timeout_s=0.5)
    second = start("ps", "--coordinator", url)
    assert second.line().startswith("ps 1 ready")
    routing = client.routing()
    assert routing.version == 1
    assert np.bincount(routing.owners).tolist() == [2048, 2048]
    assert (routing.changed_at == 1).all()
    assert sorted(routing.servers) == [0, 1]
    client.close()


def test_an_address_that_nobody_could_reach_is_refused(
    start: Start, start_coordinator: Start
) -> None:
    _, url = start_coordinator()
    role = start("ps", "--coordinator", url, "--host", "0.0.0.0", "--insecure")
    code, errors = role.finish()
    assert code == 1
    assert "the address of one interface" in errors


def test_a_table_is_on_every_server_when_its_creation_returns(
    start: Start, start_coordinator: Start
) -> None:
    _, url = start_coordinator("--expect-ps", "2")
    for _ in range(2):
        start("ps", "--coordinator", url).line()
    client = CoordinatorClient(url)
    client.create_table(DEFINITION)
    client.create_table(DEFINITION)
    assert [json.loads(t) for t in client.tables()] == [TABLE.to_dict()]
    with pytest.raises(SchemaMismatch, match="item"):
        client.create_table(json.dumps({**TABLE.to_dict(), "dim": 8}))
    for info in client.routing().servers.values():
        server = ServerClient(info.address)
        assert server.table_stats("item")["rows"] == 0
        assert server.inspect("item", 7) is None
        assert server.evict("item") == server.deletions("item") == 0
        with pytest.raises(TableNotFound, match=r"'user'.*tables: item"):
            server.table_stats("user")
        server.close()
    client.close()


def test_a_registration_that_is_tried_again_has_one_effect(start_coordinator: Start) -> None:
    _, url = start_coordinator()
    client = CoordinatorClient(url)
    first = client.register_worker(incarnation="a", rank=0, world_size=2)
    again = client.register_worker(incarnation="a", rank=0, world_size=2)
    other = client.register_worker(incarnation="b", rank=1, world_size=2)
    assert first == again
    assert first.client != other.client
    assert [w.rank for w in client.status().workers] == [0, 1]
    assert not client.heartbeat("nobody").known
    client.close()


def test_a_member_of_another_cluster_is_refused(start_coordinator: Start) -> None:
    _, url = start_coordinator()
    client = CoordinatorClient(url)
    with pytest.raises(InvalidArgument, match="the caller belongs to cluster other"):
        client.register_server(
            incarnation="s", address="127.0.0.1:1", host_identity="h", cluster_id="other"
        )
    assert not client.status().routing.servers
    client.close()


def test_a_frozen_server_is_lost_and_live_again_when_it_goes_on(
    start: Start, start_coordinator: Start
) -> None:
    _, url = start_coordinator("--heartbeat", "0.2", "--lease", "0.5")
    server = start("ps", "--coordinator", url)
    server.line()
    client = CoordinatorClient(url)
    client.routing()
    server.process.send_signal(signal.SIGSTOP)
    wait_for(lambda: states(client) == {0: "lost"})
    assert "0 (lost)" in client.status().reason
    server.process.send_signal(signal.SIGCONT)
    wait_for(lambda: states(client) == {0: "live"})
    client.close()


def test_a_server_that_is_terminated_leaves(start: Start, start_coordinator: Start) -> None:
    coordinator, url = start_coordinator()
    server = start("ps", "--coordinator", url, "--drain", "0")
    server.line()
    assert server.finish(signal.SIGTERM) == (0, "")
    client = CoordinatorClient(url)
    assert states(client) == {0: "left"}
    client.close()
    assert coordinator.finish(signal.SIGINT) == (0, "")


def test_a_restarted_coordinator_finds_tables_numbers_and_routing(
    start: Start, start_coordinator: Start, tmp_path: Path
) -> None:
    state = ("--state", str(tmp_path / "cluster.sqlite"), "--expect-ps", "2")
    coordinator, url = start_coordinator(*state)
    for _ in range(2):
        start("ps", "--coordinator", url).line()
    keys = np.arange(1000, dtype=np.uint64)
    with em.connect(url) as store:
        store.create_table(TABLE)
        before = store.pull("item", keys)
        client = CoordinatorClient(url)
        known = client.status()
        worker = client.register_worker(incarnation="w")
        coordinator.finish(signal.SIGKILL)
        # Rows are served on while there is no coordinator.
        store.push("item", keys, np.ones((1000, 4), np.float32))
        assert (store.pull("item", keys) == before - 1).all()
        start_coordinator(*state, "--port", url.rpartition(":")[2])
        wait_for(lambda: states(client) == {0: "live", 1: "live"})
        found = client.status()
        assert (found.cluster_id, found.tables) == (known.cluster_id, known.tables)
        assert (found.routing.owners == known.routing.owners).all()
        assert found.routing.version == known.routing.version
        assert client.register_worker(incarnation="w") == worker
        assert client.register_worker(incarnation="x").client > worker.client
        client.close()
        assert (store.pull("item", keys) == before - 1).all()


def test_one_state_has_one_coordinator(
    start: Start, start_coordinator: Start, tmp_path: Path
) -> None:
    path = str(tmp_path / "cluster.sqlite")
    start_coordinator("--state", path)
    code, errors = start("coordinator", "--state", path).finish()
    assert code == 1
    assert "no other coordinator" in errors


def test_a_port_in_use_is_one_message(start: Start, start_coordinator: Start) -> None:
    _, url = start_coordinator()
    port = url.rpartition(":")[2]
    code, errors = start("coordinator", "--port", port).finish()
    assert code == 1
    assert errors.count("\n") == 1
    assert f"cannot listen at 127.0.0.1:{port}: the port is in use" in errors
    code, errors = start("ps", "--coordinator", url, "--data-port", port).finish()
    assert code == 1
    assert errors.count("\n") == 1
    assert port in errors


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("embery://127.0.0.1:1", "nothing listens there"),
        ("embery://no-such-host.invalid:7070", "host is unknown"),
        ("http://127.0.0.1:7070", "embery://HOST:PORT"),
    ],
)
def test_a_coordinator_that_is_not_there_is_one_message(
    start: Start, url: str, message: str
) -> None:
    code, errors = start("ps", "--coordinator", url).finish()
    assert code == 1
    assert errors.count("\n") == 1, errors
    assert message in errors


def test_a_server_never_imports_torch(start_coordinator: Start, start: Start) -> None:
    _, url = start_coordinator()
    server = start("ps", "--coordinator", url)
    server.line()
    maps = Path(f"/proc/{server.process.pid}/maps").read_text()
    assert "_native" in maps
    assert "torch" not in maps
