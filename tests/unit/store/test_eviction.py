"""LRU and LFU: how many rows stay, which go, and that what goes is counted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import embery as em


def table_of(eviction: Any, **fields: Any) -> em.Table:
    fields = {"optimizer": em.optim.SGD(lr=1.0), "initializer": em.init.Constant(1.0), **fields}
    return em.Table("t", dim=1, eviction=eviction, **fields)


def counters(store: Any) -> dict[str, int]:
    return store.stats()["tables"]["t"]


def rows_of(store: Any, keys: range = range(100)) -> set[int]:
    return {key for key in keys if store.inspect("t", key) is not None}


def push(store: Any, *keys: int) -> None:
    store.push("t", list(keys), np.ones((len(keys), 1), np.float32))


@pytest.mark.parametrize("policy", [em.LRU, em.LFU])
@pytest.mark.parametrize("max_rows", [1, 2, 10, 100])
def test_a_small_table_keeps_exactly_its_rows(connect: Any, policy: Any, max_rows: int) -> None:
    store = connect(table_of(policy(max_rows)))
    rng = np.random.default_rng(0)
    for step in range(30):
        keys = rng.integers(0, 150, 40).tolist()
        if step % 2:
            store.pull("t", keys)
        else:
            push(store, *keys)
        stats = counters(store)
        assert stats["rows"] <= max_rows
        assert stats["rows"] == stats["admitted"] - stats["deleted"]
        assert stats["evicted"] == stats["deleted"] == store.deletions("t")
        assert stats["tombstones"] + stats["tombstones_lost"] == stats["deleted"]
    assert counters(store)["rows"] == max_rows


def test_lru_lets_the_least_recently_touched_go(connect: Any) -> None:
    store = connect(table_of(em.LRU(3)))
    for key in (1, 2, 3):
        push(store, key)
    push(store, 1)
    # A pull of a present row is no touch.
    store.pull("t", [2])
    push(store, 4)
    assert rows_of(store) == {1, 3, 4}
    # An insertion by a pull is one.
    store.pull("t", [5])
    assert rows_of(store) == {1, 4, 5}


def test_lfu_lets_the_least_often_updated_go(connect: Any) -> None:
    store = connect(table_of(em.LFU(3)))
    for key, times in ((1, 3), (2, 1), (3, 2)):
        for _ in range(times):
            push(store, key)
    push(store, 4)
    assert rows_of(store) == {1, 3, 4}
    push(store, 5)
    assert rows_of(store) == {1, 3, 5}


def test_lfu_keeps_rows_of_the_current_step_before_all_others(connect: Any) -> None:
    """A new row has had no time to be used often: without this it could never stay."""
    store = connect(table_of(em.LFU(2)))
    for _ in range(10):
        push(store, 1, 2)
    push(store, 3)
    assert 3 in rows_of(store)
    store.pull("t", [4, 5])
    assert rows_of(store) == {4, 5}
    assert counters(store)["rows"] == 2


def test_among_rows_updated_equally_often_the_older_goes(connect: Any) -> None:
    store = connect(table_of(em.LFU(3)))
    for key in (1, 2, 3):
        push(store, key)
    push(store, 4)
    assert rows_of(store) == {2, 3, 4}


def test_a_batch_larger_than_the_table_reads_all_its_rows_and_keeps_what_fits(
    connect: Any,
) -> None:
    store = connect(table_of(em.LRU(5)))
    assert (store.pull("t", range_keys(50)) == 1).all()
    assert counters(store)["rows"] == 5
    push(store, *range(50))
    assert counters(store)["rows"] == 5
    assert counters(store)["updates"] == 50


def range_keys(count: int) -> Any:
    return np.arange(count, dtype=np.uint64)


def test_an_evicted_row_starts_anew(connect: Any) -> None:
    store = connect(table_of(em.LRU(1), optimizer=em.optim.Momentum(lr=1.0)))
    push(store, 1)
    push(store, 1)
    push(store, 2)
    assert rows_of(store) == {2}
    assert (store.pull("t", [1], train=False) == 0).all()
    assert store.pull("t", [1]).tolist() == [[1.0]]
    row = store.inspect("t", 1)
    assert (row["updates"], row["state"]) == (0, {"m": [0.0]})


@pytest.mark.parametrize("policy", [em.LRU, em.LFU])
def test_evaluation_pulls_evict_nothing_and_save_nothing(connect: Any, policy: Any) -> None:
    store = connect(table_of(policy(2)))
    push(store, 1)
    push(store, 2)
    for _ in range(3):
        store.pull("t", [1, 9], train=False)
    assert rows_of(store) == {1, 2}
    push(store, 3)
    assert rows_of(store) == {2, 3}


def test_a_large_table_gives_up_a_64th_at_once_and_never_holds_more(connect: Any) -> None:
    max_rows = 20_000
    store = connect(table_of(em.LRU(max_rows)), threads=2)
    keys = range_keys(60_000)
    for part in np.array_split(keys, 60):
        store.push("t", part, np.ones((len(part), 1), np.float32))
        assert counters(store)["rows"] <= max_rows
    stats = counters(store)
    assert stats["rows"] >= max_rows - max_rows // 64
    assert stats["rows"] + stats["evicted"] == 60_000
    # Those that stayed are the last ones.
    assert len(rows_of(store, range(59_000, 60_000))) == 1000
    assert rows_of(store, range(1000)) == set()


def test_evict_applies_the_policy_now_and_says_how_many_went(connect: Any) -> None:
    store = connect(table_of(em.LRU(10)), em.Table("u", dim=1))
    push(store, *range(10))
    assert store.evict("t") == 0
    store.pull("u", [1, 2, 3])
    assert store.evict("u") == 0
    assert store.stats()["tables"]["u"]["rows"] == 3


def test_the_order_does_not_depend_on_threads(connect: Any, snapshot: Any, clock: Any) -> None:
    rng = np.random.default_rng(1)
    work = [rng.integers(0, 30_000, 10_000, dtype=np.uint64) for _ in range(4)]
    for policy in (em.LRU(5_000), em.LFU(5_000), em.LRU(9_000)):
        seen = []
        for threads in (1, 4):
            store = connect(table_of(policy), threads=threads, clock=clock)
            for keys in work:
                store.pull("t", keys)
                store.push("t", keys, np.ones((len(keys), 1), np.float32))
            seen.append(snapshot(store, "t"))
        assert seen[0] == seen[1]
