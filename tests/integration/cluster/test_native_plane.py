"""Pulls and pushes through servers give the bits that the embedded store gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import embery as em
from embery import _native
from embery.rpc.records import no_backups

NOW_S = 1_700_000_000
TABLES = (
    em.Table(
        "item",
        dim=16,
        optimizer=em.optim.RowwiseAdagrad(lr=0.05),
        initializer=em.init.Uniform(0.1, seed=3),
    ),
    em.Table("user", dim=7, optimizer=em.optim.Adam(lr=0.01), initializer=em.init.Normal(0.1)),
    em.Table(
        "rare",
        dim=3,
        optimizer=em.optim.Adagrad(lr=0.1),
        admission=em.MinCount(2),
        dtype="bfloat16",
    ),
)


def batch(generator: np.random.Generator) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return keys with many duplicates and their gradients, by table."""
    keys, grads = {}, {}
    for table in TABLES:
        n = int(generator.integers(0, 3000))
        keys[table.name] = (generator.zipf(1.3, n) % 5000).astype(np.uint64)
        grads[table.name] = generator.normal(size=(n, table.dim)).astype(np.float32)
    return keys, grads


class Embedded:
    """The store that servers are compared with."""

    def __init__(self) -> None:
        self.store = _native.Store(1, "auto")
        self.ids = {t.name: self.store.create_table(t.to_dict()) for t in TABLES}

    def pull(self, keys: dict[str, Any], mode: Any = "train") -> dict[str, Any]:
        out = {t.name: np.empty((len(keys[t.name]), t.dim), np.float32) for t in TABLES}
        self.store.pull(
            list(self.ids.values()), list(keys.values()), list(out.values()), mode, NOW_S
        )
        return out

    def push(self, keys: dict[str, Any], grads: dict[str, Any]) -> None:
        self.store.push(list(self.ids.values()), list(keys.values()), list(grads.values()), NOW_S)

    def rows(self, table: str) -> dict[int, tuple[Any, ...]]:
        columns = self.store.export_rows(self.ids[table], 0, 4096)
        return {
            int(key): tuple(columns[c][i].tobytes() for c in sorted(columns) if c != "key")
            for i, key in enumerate(columns["key"])
        }


@pytest.mark.parametrize("servers", [1, 2, 3, 5])
def test_any_number_of_servers_gives_the_bits_of_the_embedded_store(
    make_plane: Any, servers: int
) -> None:
    plane, embedded = make_plane(TABLES, servers=servers), Embedded()
    client = plane.client()
    generator = np.random.default_rng(5)
    for _ in range(6):
        keys, grads = batch(generator)
        expected, got = embedded.pull(keys), plane.pull(client, keys)
        for name in keys:
            assert got[name].tobytes() == expected[name].tobytes()
        embedded.push(keys, grads)
        plane.push(client, keys, grads)
    keys, _ = batch(generator)
    expected, got = embedded.pull(keys, "eval"), plane.pull(client, keys, "eval")
    for name in keys:
        assert got[name].tobytes() == expected[name].tobytes()
        assert plane.rows(name) == embedded.rows(name)
        assert plane.rows(name)


def test_peek_tells_which_rows_do_not_exist(make_plane: Any) -> None:
    plane = make_plane(TABLES[:1], servers=3)
    client = plane.client()
    there = np.arange(0, 100, 2, dtype=np.uint64)
    rows = plane.pull(client, {"item": there})["item"]
    asked = np.concatenate([np.arange(100), np.arange(100)]).astype(np.uint64)
    out, absent = np.zeros((200, 16), np.float32), np.full(200, 7, np.uint8)
    salts, dims = plane.arguments(["item"])
    assert client.pull(salts, dims, [asked], [out], [absent], "peek", NOW_S, 30.0) == 0
    assert np.array_equal(absent, asked % 2)
    assert np.array_equal(out[0:100:2], rows)
    assert np.array_equal(out[100:200:2], rows)
    assert len(plane.rows("item")) == 50


def test_keys_travel_once_however_often_they_are_asked_for(make_plane: Any) -> None:
    plane = make_plane(TABLES[:1], servers=2)
    client = plane.client()
    keys = {"item": np.repeat(np.arange(10, dtype=np.uint64), 100)}
    rows = plane.pull(client, keys)["item"]
    assert np.array_equal(rows, np.repeat(rows[::100], 100, axis=0))
    assert client.stats()["keys"] == 1000
    assert client.stats()["keys_sent"] == 10
    assert sum(server.stats()["rows_pulled"] for server in plane.servers) == 10


def test_keys_of_a_server_that_lost_a_slot_are_refused_and_nothing_is_done(make_plane: Any) -> None:
    plane = make_plane(TABLES[:1], servers=2)
    stale = plane.client()
    owners = plane.owners.copy()
    owners[0] = 1
    changed_at = np.ones(4096, np.uint64)
    changed_at[0] = 2
    for server in plane.servers:
        server.set_routing(2, owners, no_backups(), changed_at)
    keys = np.arange(20_000, dtype=np.uint64)
    slots = _native.slots_of("item", keys)
    assert (slots == 0).any()
    salts, dims = plane.arguments(["item"])
    out, refused = np.full((20_000, 16), np.nan, np.float32), np.full(20_000, 9, np.uint8)
    count = stale.pull(salts, dims, [keys], [out], None, "train", NOW_S, 30.0, [refused])
    assert count == refused.sum() == (plane.owners[slots] == 0).sum()
    assert np.array_equal(np.isnan(out[:, 0]), refused == 1)
    assert not len(plane.stores[0].export_rows(0, 0, 4096)["key"])

    stale.set_routing(2, owners)
    rest = keys[refused == 1]
    again = np.empty((len(rest), 16), np.float32)
    assert stale.pull(salts, dims, [rest], [again], None, "train", NOW_S, 30.0) == 0
    assert len(plane.rows("item")) == 20_000


def test_routing_older_than_a_slots_last_change_is_refused(make_plane: Any) -> None:
    """Even by the server that owns the slot before and after."""
    plane = make_plane(TABLES[:1], servers=1)
    client = plane.client()
    changed_at = np.ones(4096, np.uint64)
    keys = np.array([1], np.uint64)
    changed_at[_native.slots_of("item", keys)] = 3
    plane.servers[0].set_routing(3, plane.owners, no_backups(), changed_at)
    salts, dims = plane.arguments(["item"])
    grads = np.ones((1, 16), np.float32)
    arguments: dict[str, Any] = {
        "sequence": 1, "round": 0, "rank": 0, "world": 1, "now_s": NOW_S, "timeout_s": 30.0
    }  # fmt: skip
    assert client.push(salts, dims, [keys], [grads], **arguments) == 1
    assert plane.rows("item") == {}
    client.set_routing(3, plane.owners)
    assert client.push(salts, dims, [keys], [grads], **arguments) == 0
    assert len(plane.rows("item")) == 1
    assert plane.servers[0].stats()["moved"] == 1


def test_an_error_of_a_server_reaches_the_caller_as_itself(make_plane: Any) -> None:
    plane = make_plane(TABLES, servers=2)
    client = plane.client()
    keys, out = np.arange(100, dtype=np.uint64), np.empty((100, 5), np.float32)
    with pytest.raises(em.TableNotFound, match=r"server 0 .*no table of salt 5; create it"):
        client.pull([5], [5], [keys], [out], None, "train", NOW_S, 30.0)
    salt = _native.table_salt("item")
    with pytest.raises(em.InvalidArgument, match="'item' has rows of 16 columns, the request of 5"):
        client.pull([salt], [5], [keys], [out], None, "train", NOW_S, 30.0)
    assert len(plane.pull(client, {"item": keys})["item"]) == 100


def test_a_server_that_is_not_connected_is_named(make_plane: Any) -> None:
    plane = make_plane(TABLES, servers=3)
    client = plane.client()
    client.disconnect(2)
    with pytest.raises(em.Unavailable, match="server 2 owns slots and is not connected"):
        plane.pull(client, {"item": np.arange(100, dtype=np.uint64)})
    plane.connect(client, 2)
    plane.pull(client, {"item": np.arange(100, dtype=np.uint64)})


def test_a_call_before_any_routing_says_so() -> None:
    client = _native.Client(1)
    out = np.empty((1, 1), np.float32)
    with pytest.raises(em.Unavailable, match="no routing was set"):
        client.pull([1], [1], [np.zeros(1, np.uint64)], [out], None, "eval", NOW_S, 1.0)


@pytest.mark.parametrize("transport", ["call"])
def test_a_malformed_frame_is_refused_by_handle(make_plane: Any) -> None:
    plane = make_plane(TABLES, servers=1)
    for frame in (b"", b"EMBY", bytes(24), b"x" * 100):
        with pytest.raises(em.InvalidArgument, match="malformed frame"):
            plane.servers[0].handle(frame)
