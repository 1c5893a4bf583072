"""Checkpoints of the real store: the same files again, the golden one forever, inspection."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embery as em
from embery.cli.main import main

GOLDEN = Path(__file__).parents[2] / "golden" / "store-v1"
NOW_S = 1_700_000_000

# Everything is exact here: rows begin as zeros, and a push subtracts its gradient.
ITEM = em.Table(
    "item",
    dim=2,
    optimizer=em.optim.SGD(lr=1.0),
    initializer=em.init.Zeros(),
    admission=em.MinCount(2),
    eviction=em.LRU(max_rows=3),
)


def store_at(now_s: int) -> em.Store:
    return em.connect("embedded:", threads=1, clock=lambda: now_s)


def push(store: em.Store, *keys: int) -> None:
    grads = np.array([[-key, key] for key in keys], np.float32)
    store.push("item", np.array(keys, np.uint64), grads)


def write_golden(dest: Path) -> str:
    """Make what GOLDEN holds: rows 3, 4 and 5, a tombstone of 1, the candidate 9 seen once."""
    store = store_at(NOW_S)
    store.create_table(ITEM)
    for keys in ((1, 3), (1, 3), (4,), (4,), (5, 9), (5,), (3,)):
        push(store, *keys)
    return store.checkpoint(dest, state={"batches": 7})


def rows_of(store: em.Store, *keys: int) -> list[list[float]]:
    rows: list[list[float]] = store.pull("item", np.array(keys, np.uint64), train=False).tolist()
    return rows


@pytest.mark.parametrize("source", ["committed", "written now"])
def test_the_golden_store_is_restored_and_goes_on(tmp_path: Path, source: str) -> None:
    if source == "written now":
        write_golden(tmp_path)
    store = store_at(NOW_S + 60)
    found = store.restore(GOLDEN if source == "committed" else tmp_path)
    assert found.state == {"batches": 7}
    assert store.tables() == {"item": ITEM}
    # MinCount(2) applies the second push only, so 3 was updated twice, 4 and 5 once, 9 never.
    assert rows_of(store, 1, 3, 4, 5, 9) == [[0, 0], [6, -6], [4, -4], [5, -5], [0, 0]]
    stats = store.stats()["tables"]["item"]
    known = ("rows", "step", "admitted", "rejected", "evicted", "deleted", "candidates")
    assert {name: stats[name] for name in known} == {
        "rows": 3,
        "step": 7,
        "admitted": 4,
        "rejected": 5,
        "evicted": 1,
        "deleted": 1,
        "candidates": 1,
    }
    row = store.inspect("item", 3)
    assert row is not None
    assert (row["updates"], row["last_step"], row["last_time_s"]) == (2, 7, NOW_S)
    push(store, 9)
    assert rows_of(store, 9) == [[9, -9]], "the candidate's first sighting was forgotten"
    assert rows_of(store, 4) == [[0, 0]], "the least recently pushed row should have gone"


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
@pytest.mark.parametrize("optimizer", [em.optim.SGD(), em.optim.Adam(), em.optim.RowwiseAdagrad()])
def test_a_restored_store_saves_the_same_files(
    tmp_path: Path, dtype: Any, optimizer: em.optim.Optimizer
) -> None:
    table = em.Table("item", dim=5, dtype=dtype, optimizer=optimizer)
    store = store_at(NOW_S)
    store.create_table(table)
    rng = np.random.default_rng(3)
    for _ in range(3):
        keys = rng.integers(0, 2**64, 700, dtype=np.uint64)
        store.push("item", keys, rng.standard_normal((700, 5), dtype=np.float32))
    first = Path(store.checkpoint(tmp_path / "first")).parent
    again = em.connect("embedded:", threads=2)
    again.restore(first)
    second = Path(again.checkpoint(tmp_path / "second")).parent
    names = sorted(path.name for path in first.iterdir())
    assert names == sorted(path.name for path in second.iterdir())
    for name in names:
        if name != "manifest.json":
            assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_inspect_shows_what_the_store_shows(tmp_path: Path, capsys: Any) -> None:
    store = store_at(NOW_S)
    store.create_table(em.Table("user", dim=3, optimizer=em.optim.Adam()))
    keys = np.arange(100, dtype=np.uint64)
    store.push("user", keys, np.ones((100, 3), np.float32))
    store.checkpoint(tmp_path)
    for key in (0, 42, 99):
        assert main(["inspect", str(tmp_path), "user", str(key), "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == store.inspect("user", key)
    assert main(["inspect", str(tmp_path), "user", "100"]) == 1
    assert main(["inspect", str(tmp_path), "user", "--json"]) == 0
    statistics = json.loads(capsys.readouterr().out)
    assert statistics["rows"] == 100
    assert statistics["updates"] == {"min": 1, "mean": 1.0, "max": 1}


def test_inspect_counts_what_the_store_counts(capsys: Any) -> None:
    assert main(["inspect", str(GOLDEN), "item", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counters"] == {
        "step": 7,
        "admitted": 4,
        "rejected": 5,
        "evicted": 1,
        "deleted": 1,
        "non_finite": 0,
        "updates": 5,
        "candidates": 1,
        "tombstones": 1,
    }
