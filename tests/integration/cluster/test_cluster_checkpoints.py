"""A checkpoint knows nothing of servers: saved from so many, it is restored into any others."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embery as em
from embery.cluster_tables import divided, joined

TABLES = [
    em.Table("a", dim=5, optimizer=em.optim.Adam(lr=0.1), initializer=em.init.Normal(0.1, seed=3)),
    em.Table("b", dim=16, optimizer=em.optim.RowwiseAdagrad(lr=0.1), dtype="int8"),
    em.Table("c", dim=2, optimizer=em.optim.FTRL(), admission=em.MinCount(3)),
    em.Table("empty", dim=1),
]


def train(store: em.Store, *, steps: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    for table in TABLES:
        store.create_table(table)
    for step in range(steps):
        table = TABLES[step % 3]
        keys = random.integers(0, 500, 200).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        store.pull(table.name, keys)
        store.push(table.name, keys, random.normal(size=(200, table.dim)).astype(np.float32))


def contents(store: em.Store) -> dict[str, Any]:
    keys = np.arange(500).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    stats = store.stats()["tables"]
    for counters in stats.values():
        del counters["bytes"]
    rows = {t.name: store.pull(t.name, keys, train=False).tobytes() for t in TABLES}
    row = next(r for r in (store.inspect("a", int(key)) for key in keys) if r is not None)
    return {"rows": rows, "stats": stats, "row": row}


def connect(url: str) -> em.Store:
    return em.connect(url, clock=lambda: 1e9)


@pytest.mark.parametrize(("saved_from", "restored_into"), [(0, 2), (2, 3), (3, 0)])
def test_training_goes_on_after_a_restore_as_if_nothing_had_been(
    run_cluster: Any, tmp_path: Path, saved_from: int, restored_into: int
) -> None:
    """0 servers are the embedded store."""
    with connect("embedded:") as store:
        train(store, steps=18, seed=0)
        train(store, steps=18, seed=1)
        expected = contents(store)

    def cluster(servers: int) -> AbstractContextManager[str]:
        return run_cluster(servers) if servers else nullcontext("embedded:")

    with cluster(saved_from) as url, connect(url) as store:
        train(store, steps=18, seed=0)
        before = contents(store)
        store.checkpoint(tmp_path, state={"step": 18})
        assert contents(store) == before
    with cluster(restored_into) as url, connect(url) as store:
        for table in TABLES[:2]:
            store.create_table(table)
        store.push("a", [1, 2, 3], np.ones((3, 5), np.float32))
        assert store.restore(tmp_path).state == {"step": 18}
        assert contents(store) == before
        train(store, steps=18, seed=1)
        assert contents(store) == expected


def test_a_checkpoint_with_other_tables_is_refused_and_nothing_changes(
    run_cluster: Any, tmp_path: Path
) -> None:
    with connect("embedded:") as store:
        train(store, steps=6, seed=0)
        store.checkpoint(tmp_path)
    with run_cluster(2) as url, connect(url) as store:
        store.create_table(em.Table("other", dim=1, initializer=em.init.Constant(3.0)))
        store.pull("other", [1])
        with pytest.raises(em.SchemaMismatch, match="no table 'other'"):
            store.restore(tmp_path)
        assert store.pull("other", [1], train=False)[0, 0] == 3.0


def test_a_saver_that_vanishes_lets_the_servers_go(run_cluster: Any) -> None:
    from embery.cluster import ClusterStore  # noqa: PLC0415  gRPC loads with it

    with run_cluster(2) as url, connect(url) as store, connect(url) as saver:
        assert isinstance(saver, ClusterStore)
        store.create_table(em.Table("t", dim=1, initializer=em.init.Zeros()))
        frozen = saver._frozen()
        frozen.__enter__()
        waiting = store.push_async("t", np.arange(100), np.ones((100, 1), np.float32))
        assert not waiting.done()
        for server in saver._servers.values():
            server.close()
        waiting.result(timeout=20)


def test_a_state_divided_over_servers_joins_to_itself() -> None:
    with connect("embedded:") as store:
        train(store, steps=18, seed=0)
        native = store._native  # type: ignore[attr-defined]
        state = native.export_state(native.create_table(TABLES[2].to_dict()))
    owners = (np.arange(4096) * 3 // 4096).astype(np.uint16)
    parts = divided(state, owners)
    assert len(parts) == 3
    again = joined(list(parts.values()))
    assert again.keys() == state.keys()
    for name, value in state.items():
        assert np.array_equal(again[name], value), name
