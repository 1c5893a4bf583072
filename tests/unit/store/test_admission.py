"""Admission: which keys become rows, when, and what those held back read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import embery as em

MANY = np.arange(20_000, dtype=np.uint64)


def table_of(admission: Any, **fields: Any) -> em.Table:
    fields = {"optimizer": em.optim.SGD(lr=1.0), "initializer": em.init.Normal(1.0), **fields}
    return em.Table("t", dim=2, admission=admission, **fields)


def counters(store: Any) -> dict[str, int]:
    return store.stats()["tables"]["t"]


def has_row(store: Any, key: int) -> bool:
    return store.inspect("t", key) is not None


def ones(count: int = 1) -> Any:
    return np.ones((count, 2), np.float32)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_min_count_admits_by_the_pull_that_reaches_it(connect: Any, count: int) -> None:
    store = connect(table_of(em.MinCount(count)))
    for seen in range(1, count + 2):
        store.pull("t", [7])
        assert has_row(store, 7) == (seen >= count)
    assert counters(store)["admitted"] == 1
    assert counters(store)["candidates"] == 0
    assert counters(store)["rejected"] == 0


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_min_count_admits_by_the_push_that_reaches_it_and_applies_that_push(
    connect: Any, count: int
) -> None:
    store = connect(table_of(em.MinCount(count)))
    first = store.pull("t", [7], train=True) if count > 1 else None
    for seen in range(1, count + 1):
        assert not has_row(store, 7)
        store.push("t", [7], ones())
        assert has_row(store, 7) == (seen == count)
    assert counters(store)["rejected"] == count - 1
    row = store.inspect("t", 7)
    assert row["updates"] == 1
    if first is not None:
        assert row["values"] == (first[0] - 1).tolist()


def test_pulls_and_pushes_are_counted_apart(connect: Any) -> None:
    """A loop of pull and push with MinCount(3) admits in the third pull, not sooner."""
    store = connect(table_of(em.MinCount(3)))
    for step in (1, 2):
        store.pull("t", [7])
        store.push("t", [7], ones())
        assert not has_row(store, 7)
        assert counters(store)["rejected"] == step
    store.pull("t", [7])
    assert has_row(store, 7)
    store.push("t", [7], ones())
    assert store.inspect("t", 7)["updates"] == 1
    assert counters(store)["rejected"] == 2


def test_duplicates_in_a_batch_count_once(connect: Any) -> None:
    store = connect(table_of(em.MinCount(2)))
    store.pull("t", [7] * 10)
    store.push("t", [8] * 10, ones(10))
    assert counters(store)["rows"] == 0
    assert counters(store)["rejected"] == 1
    assert counters(store)["candidates"] == 2
    first = store.pull("t", [7] * 10)
    assert (first == first[0]).all()
    store.push("t", [8] * 10, ones(10))
    assert counters(store)["rows"] == counters(store)["admitted"] == 2
    assert store.inspect("t", 8)["updates"] == 1


def test_evaluation_pulls_and_peeks_are_no_sightings(connect: Any) -> None:
    store = connect(table_of(em.MinCount(2)))
    store.pull("t", [7])
    for _ in range(5):
        assert (store.pull("t", [7], train=False) == 0).all()
        key = np.array([7], np.uint64)
        store.peek_batch(["t"], [key], [np.empty((1, 2), np.float32)], [np.empty(1, np.uint8)])
    assert not has_row(store, 7)
    assert counters(store)["candidates"] == 1


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
@pytest.mark.parametrize("dim", [1, 2, 5])
def test_a_key_held_back_reads_what_its_row_will_begin_with(
    connect: Any, dtype: str, dim: int
) -> None:
    table = em.Table(
        "t", dim=dim, dtype=dtype, initializer=em.init.Normal(1.0), admission=em.MinCount(3)
    )
    store, open_store = connect(table), connect(em.Table(
        "t", dim=dim, dtype=dtype, initializer=em.init.Normal(1.0)))  # fmt: skip
    keys = np.arange(300, dtype=np.uint64)
    expected = open_store.pull("t", keys)
    for rows in (0, 0, 300, 300):
        np.testing.assert_array_equal(store.pull("t", keys), expected)
        assert counters(store)["rows"] == rows


def test_pushes_to_keys_held_back_are_counted_once_a_distinct_key(connect: Any) -> None:
    store = connect(table_of(em.MinCount(65535)))
    store.push("t", [1, 2, 1, 3, 2], ones(5))
    assert counters(store)["rejected"] == 3
    assert counters(store)["updates"] == 0
    assert counters(store)["step"] == 1


def test_an_evicted_key_starts_to_count_anew(connect: Any, clock: Any) -> None:
    store = connect(table_of(em.MinCount(2), eviction=em.TTL(seconds=10)), clock=clock)
    for _ in range(2):
        store.pull("t", [7])
    clock.now_s += 100
    assert store.evict("t") == 1
    store.pull("t", [7])
    assert not has_row(store, 7)
    store.pull("t", [7])
    assert has_row(store, 7)


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("call", ["pull", "push"])
def test_probability_admits_at_its_rate(connect: Any, p: float, call: str) -> None:
    store = connect(table_of(em.Probability(p, seed=3)))
    if call == "pull":
        store.pull("t", MANY)
    else:
        store.push("t", MANY, ones(len(MANY)))
    admitted = counters(store)["rows"]
    error = (p * (1 - p) / len(MANY)) ** 0.5
    assert abs(admitted / len(MANY) - p) <= 4 * error
    if call == "push":
        assert counters(store)["rejected"] == len(MANY) - admitted


def admitted_keys(store: Any) -> set[int]:
    return {key for key in range(500) if has_row(store, key)}


def test_probability_is_drawn_once_a_key_and_step(connect: Any) -> None:
    """The pull and the push of one step agree, however often the pull is repeated."""
    store = connect(table_of(em.Probability(0.2)))
    keys = np.arange(500, dtype=np.uint64)
    store.pull("t", keys)
    first = admitted_keys(store)
    store.pull("t", keys[::-1])
    store.push("t", keys, ones(500))
    assert admitted_keys(store) == first
    assert counters(store)["rejected"] == 500 - len(first)
    store.pull("t", keys)
    second = admitted_keys(store) - first
    assert 0 < len(second) < 500 - len(first)


def test_probability_depends_on_seed_and_key_alone(connect: Any) -> None:
    keys = np.arange(500, dtype=np.uint64)
    seen = []
    for seed, threads, order in ((1, 1, keys), (1, 4, keys[::-1]), (2, 1, keys)):
        store = connect(table_of(em.Probability(0.3, seed=seed)), threads=threads)
        for part in np.array_split(order, threads):
            store.pull("t", part)
        seen.append(admitted_keys(store))
    assert seen[0] == seen[1]
    assert seen[0] != seen[2]


def test_every_key_is_admitted_in_the_end(connect: Any) -> None:
    store = connect(table_of(em.Probability(0.2)))
    keys = np.arange(100, dtype=np.uint64)
    for _ in range(100):
        store.push("t", keys, np.zeros((100, 2), np.float32))
    assert counters(store)["rows"] == 100


def test_min_count_does_not_depend_on_threads(connect: Any, snapshot: Any, clock: Any) -> None:
    rng = np.random.default_rng(0)
    seen = []
    work = [rng.zipf(1.3, 12_000).astype(np.uint64) for _ in range(4)]
    for threads in (1, 4):
        store = connect(table_of(em.MinCount(3)), threads=threads, clock=clock)
        for keys in work:
            store.pull("t", keys)
            store.push("t", keys, ones(len(keys)))
        seen.append(snapshot(store, "t"))
    assert seen[0] == seen[1]
