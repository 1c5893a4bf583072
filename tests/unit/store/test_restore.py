"""Save and restore the real store: all of it comes back, and going on gives the same bits."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embery as em

DTYPES = ["float32", "float16", "bfloat16", "int8"]
TABLES = [
    em.Table("sgd", dim=1, optimizer=em.optim.SGD(lr=0.1)),
    em.Table("adam", dim=3, optimizer=em.optim.LazyAdam(), dtype="int8", admission=em.MinCount(6)),
    em.Table("ftrl", dim=17, optimizer=em.optim.FTRL(l1=0.01), eviction=em.LRU(40)),
    em.Table(
        "rows", dim=16, optimizer=em.optim.RowwiseAdagrad(), dtype="float16", eviction=em.LFU(40)
    ),
    em.Table("adamw", dim=2, optimizer=em.optim.AdamW(), admission=em.Probability(0.3)),
    em.Table("old", dim=2, optimizer=em.optim.Adagrad(), eviction=em.TTL(seconds=100)),
]
KEYS = 120


def train(store: Any, clock: Any, begin: int, end: int) -> list[bytes]:
    """Pull and push steps [begin, end) to all tables; return what was pulled."""
    pulled = []
    for step in range(begin, end):
        rng = np.random.default_rng(step)
        clock.now_s += 7
        for name, table in store.tables().items():
            keys = (rng.zipf(1.1, 30) % KEYS).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
            pulled.append(store.pull(name, keys).tobytes())
            grads = rng.standard_normal((30, table.dim)).astype(np.float32)
            grads[rng.random(30) < 0.03] = np.nan
            store.push(name, keys, grads)
    return pulled


def test_everything_comes_back_in_a_new_store(
    connect: Any, snapshot: Any, clock: Any, tmp_path: Path
) -> None:
    """Rows, state, counts, LSNs, candidates, tombstones and counters; the tables are created."""
    saved, restored = connect(*TABLES, clock=clock), connect(clock=clock, threads=2)
    train(saved, clock, 0, 40)
    stats = {name: table.copy() for name, table in saved.stats()["tables"].items()}
    assert stats["adam"]["candidates"] > 0
    assert stats["adam"]["rejected"] > 0
    assert stats["ftrl"]["tombstones"] > 0
    assert stats["old"]["evicted"] > 0
    assert stats["sgd"]["nonfinite"] > 0
    path = saved.checkpoint(tmp_path)
    restored.restore(path)
    assert restored.tables() == saved.tables()
    for table in TABLES:
        assert snapshot(restored, table.name) == snapshot(saved, table.name)
        told = restored.stats()["tables"][table.name] | {"bytes": 0}
        assert told == stats[table.name] | {"bytes": 0}
        for key in range(20):
            assert restored.inspect(table.name, key) == saved.inspect(table.name, key)


@pytest.mark.parametrize("table", [t for t in TABLES if t.name != "old"], ids=lambda t: t.name)
def test_going_on_after_a_restore_gives_the_bits_of_no_interruption(
    connect: Any, snapshot: Any, clock: Any, tmp_path: Path, table: em.Table
) -> None:
    straight = connect(table, clock=clock)
    train(straight, clock, 0, 25)
    straight.checkpoint(tmp_path)
    at_save = clock.now_s
    expected = train(straight, clock, 25, 50)
    clock.now_s = at_save
    resumed = connect(table, clock=clock, threads=4)
    resumed.restore(tmp_path)
    assert train(resumed, clock, 25, 50) == expected
    assert snapshot(resumed, table.name) == snapshot(straight, table.name)


def test_rows_under_time_to_live_go_on_with_the_same_values(
    connect: Any, clock: Any, tmp_path: Path
) -> None:
    """When a row is swept is not saved, but what is read does not depend on it."""
    table = next(t for t in TABLES if t.name == "old")
    straight = connect(table, clock=clock)
    train(straight, clock, 0, 25)
    straight.checkpoint(tmp_path)
    at_save = clock.now_s
    expected = train(straight, clock, 25, 60)
    clock.now_s = at_save
    resumed = connect(table, clock=clock)
    resumed.restore(tmp_path)
    assert train(resumed, clock, 25, 60) == expected


@pytest.mark.parametrize("dtype", DTYPES)
def test_restore_replaces_what_the_store_holds(
    connect: Any, snapshot: Any, clock: Any, tmp_path: Path, dtype: Any
) -> None:
    """Rows that came since are gone; those that changed are as they were; nothing is left over."""
    table = em.Table("t", dim=3, dtype=dtype, admission=em.MinCount(2), eviction=em.LRU(50))
    store = connect(table, clock=clock)
    train(store, clock, 0, 15)
    before = snapshot(store, "t")
    store.checkpoint(tmp_path)
    expected = train(store, clock, 15, 25)
    store.pull("t", np.arange(1000, 1040, dtype=np.uint64))
    assert snapshot(store, "t") != before
    for _ in range(3):
        found = store.restore(tmp_path)
        assert snapshot(store, "t") == before
        assert train(store, clock, 15, 25) == expected
    assert found.number == 1


def test_restore_shrinks_and_grows_a_table(connect: Any, snapshot: Any, tmp_path: Path) -> None:
    table = em.Table("t", dim=2)
    small, large = connect(table), connect(table)
    small.pull("t", np.arange(10, dtype=np.uint64))
    large.pull("t", np.arange(50_000, dtype=np.uint64))
    first, second = small.checkpoint(tmp_path / "small"), large.checkpoint(tmp_path / "large")
    expected = snapshot(small, "t"), snapshot(large, "t")
    small.restore(second)
    large.restore(first)
    assert (snapshot(large, "t"), snapshot(small, "t")) == expected
    assert (large.pull("t", np.arange(10, 20), train=False) == 0).all()


def test_dense_state_comes_back_with_the_rows(connect: Any, tmp_path: Path) -> None:
    store = connect(em.Table("t", dim=2))
    state = {"weights": np.arange(6, dtype=np.float32).reshape(2, 3), "step": 7, "names": ["a"]}
    store.checkpoint(tmp_path, state=state)
    found = connect().restore(tmp_path).state
    np.testing.assert_array_equal(found["weights"], state["weights"])
    assert (found["step"], found["names"]) == (7, ["a"])


def test_a_store_without_tables_or_rows_is_saved_and_restored(connect: Any, tmp_path: Path) -> None:
    connect().checkpoint(tmp_path / "none")
    assert connect().restore(tmp_path / "none").tables == {}
    connect(em.Table("t", dim=2)).checkpoint(tmp_path / "empty")
    store = connect(em.Table("t", dim=2))
    store.pull("t", [1, 2])
    store.restore(tmp_path / "empty")
    assert store.stats()["tables"]["t"]["rows"] == 0


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ([em.Table("t", dim=3), em.Table("u", dim=2)], "dim: it has 3, this one 2"),
        ([em.Table("u", dim=2), em.Table("v", dim=2)], "no table 'v'"),
        (
            [dataclasses.replace(em.Table("u", dim=2), admission=em.MinCount(2))],
            "admission: it has",
        ),
    ],
    ids=["dim", "strange table", "admission"],
)
def test_restore_of_other_tables_leaves_the_store_as_it_was(
    connect: Any, snapshot: Any, tmp_path: Path, tables: list[em.Table], message: str
) -> None:
    saved = connect(em.Table("u", dim=2), em.Table("t", dim=2))
    saved.pull("t", [1, 2, 3])
    path = saved.checkpoint(tmp_path)
    store = connect(*tables)
    for table in tables:
        store.pull(table.name, [5, 6])
    before = {table.name: snapshot(store, table.name) for table in tables}
    with pytest.raises(em.SchemaMismatch) as caught:
        store.restore(path)
    assert message in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert store.tables() == {table.name: table for table in tables}
    assert {table.name: snapshot(store, table.name) for table in tables} == before


def test_restore_of_a_damaged_checkpoint_leaves_the_store_as_it_was(
    connect: Any, snapshot: Any, tmp_path: Path
) -> None:
    saved = connect(em.Table("t", dim=2), em.Table("u", dim=2))
    saved.pull("t", np.arange(1000, dtype=np.uint64))
    path = Path(saved.checkpoint(tmp_path))
    largest = max(path.parent.glob("*.arrow"), key=lambda file: file.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    store = connect(em.Table("t", dim=2))
    store.pull("t", [7])
    before = snapshot(store, "t")
    with pytest.raises(em.CheckpointCorrupt, match=largest.name):
        store.restore(path)
    assert list(store.tables()) == ["t"]
    assert snapshot(store, "t") == before
    assert store.pull("t", [7, 8]).shape == (2, 2)


def test_a_checkpoint_that_fails_lets_training_go_on(connect: Any, tmp_path: Path) -> None:
    store = connect(em.Table("t", dim=2))
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(em.EmberyError, match="file"):
        store.checkpoint(tmp_path / "file")
    store.push("t", [1], np.ones((1, 2), np.float32))
    assert store.stats()["tables"]["t"]["updates"] == 1
