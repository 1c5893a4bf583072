"""The same calls on a cluster and in this process: the same bits, whatever the servers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import embery as em

TABLES = [
    em.Table("a", dim=5, optimizer=em.optim.Adam(lr=0.1), initializer=em.init.Normal(0.1, seed=3)),
    em.Table("b", dim=16, optimizer=em.optim.RowwiseAdagrad(lr=0.1), dtype="bfloat16"),
    em.Table("c", dim=2, optimizer=em.optim.FTRL(), admission=em.MinCount(2)),
]


def trained(store: em.Store) -> dict[str, Any]:
    """Make twenty random steps; return all that came of them."""
    random = np.random.default_rng(0)
    for table in TABLES:
        store.create_table(table)
    read = []
    for step in range(20):
        table = TABLES[step % len(TABLES)]
        keys = random.integers(0, 300, 200).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        read.append(store.pull(table.name, keys).tobytes())
        store.push(table.name, keys, random.normal(size=(200, table.dim)).astype(np.float32))
    stats = store.stats()["tables"]
    for counters in stats.values():
        del counters["bytes"]
    rows = {t.name: store.pull(t.name, keys, train=False).tobytes() for t in TABLES}
    return {"read": read, "rows": rows, "stats": stats, "row": store.inspect("a", int(keys[0]))}


@pytest.mark.parametrize("transport", ["shm", "rdma", "tcp", "grpc"])
@pytest.mark.parametrize("servers", [1, 2, 3, 5])
def test_any_number_of_servers_gives_the_bits_of_the_embedded_store(
    run_cluster: Any, require_transport: Any, servers: int, transport: str
) -> None:
    require_transport(transport)
    with em.connect("embedded:", clock=lambda: 1e9) as store:
        expected = trained(store)
    with (
        run_cluster(servers) as url,
        em.connect(url, transport=transport, clock=lambda: 1e9) as store,
    ):
        assert trained(store) == expected
        used = {server["transport"] for server in store.stats()["servers"].values()}
        assert used == {transport}


@pytest.fixture(scope="module")
def url(run_cluster: Any) -> Iterator[str]:
    with run_cluster(2) as address:
        yield address


def test_a_second_handle_finds_the_tables_of_the_first(url: str) -> None:
    table = em.Table("shared", dim=3, initializer=em.init.Constant(2.0))
    with em.connect(url) as first:
        first.create_table(table)
        first.create_table(table)
        with em.connect(url) as second:
            assert second.tables()["shared"].to_dict() == table.to_dict()
            assert second.pull("shared", [1, 2]).tolist() == [[2.0] * 3] * 2


def test_a_table_with_another_definition_is_refused(url: str) -> None:
    with em.connect(url) as first, em.connect(url) as second:
        first.create_table(em.Table("fixed", dim=3))
        with pytest.raises(em.SchemaMismatch, match="dim: it has 3, this one 4"):
            second.create_table(em.Table("fixed", dim=4))


def test_an_unknown_table_is_named_beside_the_known_ones(url: str) -> None:
    with em.connect(url) as store:
        store.create_table(em.Table("known", dim=1))
        with pytest.raises(em.TableNotFound, match=r"no table 'nope' in embery://.*known"):
            store.pull("nope", [1])


def test_asynchronous_calls_come_in_order(url: str) -> None:
    with em.connect(url) as store:
        store.create_table(
            em.Table("queue", dim=1, optimizer=em.optim.SGD(lr=1.0), initializer=em.init.Zeros())
        )
        for _ in range(50):
            store.push_async("queue", [7], -np.ones((1, 1), np.float32))
        assert store.pull_async("queue", [7]).result(timeout=30)[0, 0] == 50.0


def test_a_closed_handle_says_so(url: str) -> None:
    store = em.connect(url)
    store.close()
    store.close()
    with pytest.raises(em.Unavailable, match="closed"):
        store.pull("known", [1])


def test_a_coordinator_that_is_not_there_is_named() -> None:
    with pytest.raises(em.EmberyError, match=r"127\.0\.0\.1:1"):
        em.connect("embery://127.0.0.1:1", timeout_s=2.0)


@pytest.mark.parametrize("transport", ["SHM", "carrier pigeon"])
def test_a_transport_that_does_not_exist_is_refused(url: str, transport: str) -> None:
    with pytest.raises(em.InvalidArgument, match=f"unknown transport {transport!r}"):
        em.connect(url, transport=transport)


def test_rows_that_are_put_lie_on_the_servers_of_their_keys(url: str) -> None:
    keys = np.arange(200, dtype=np.uint64)
    rows = np.arange(400, dtype=np.float32).reshape(200, 2)
    with em.connect(url) as store:
        store.create_table(em.Table("put", dim=2, optimizer=em.optim.SGD(lr=1.0)))
        store.pull("put", keys[:50])
        store.put_rows("put", keys, rows)
        assert (store.pull("put", keys, train=False) == rows).all()
        assert store.stats()["tables"]["put"]["rows"] == 200
        store.push("put", keys, np.ones((200, 2), np.float32))
        assert (store.pull("put", keys, train=False) == rows - 1).all()
