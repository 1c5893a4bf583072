"""What a pull and a push promise: which rows come, what they read, what a batch means."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import embery as em

TABLE = em.Table("t", dim=4, optimizer=em.optim.SGD(lr=1.0), initializer=em.init.Constant(0.5))
EDGES = np.array([0, 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 2, 2**64 - 1], np.uint64)


def counters(store: Any, name: str = "t") -> dict[str, int]:
    return store.stats()["tables"][name]


def ones(count: int, dim: int = 4) -> Any:
    return np.ones((count, dim), np.float32)


def test_training_pull_inserts_absent_keys_with_their_first_values(connect: Any) -> None:
    store = connect(TABLE)
    rows = store.pull("t", EDGES)
    assert rows.shape == (8, 4)
    assert rows.dtype == np.float32
    assert (rows == 0.5).all()
    assert counters(store)["rows"] == counters(store)["admitted"] == 8
    assert counters(store)["step"] == 0


def test_evaluation_pull_reads_zeros_and_inserts_nothing(connect: Any, snapshot: Any) -> None:
    store = connect(TABLE)
    store.pull("t", [3])
    before = snapshot(store, "t")
    rows = store.pull("t", np.array([3, 4, 3, 2**63], np.uint64), train=False)
    assert rows.tolist() == [[0.5] * 4, [0.0] * 4, [0.5] * 4, [0.0] * 4]
    assert snapshot(store, "t") == before


def test_pull_of_present_rows_leaves_no_trace(connect: Any, snapshot: Any) -> None:
    """Touching a row means inserting it or pushing to it."""
    store = connect(TABLE)
    store.push("t", EDGES, ones(8))
    before = snapshot(store, "t")
    store.pull("t", EDGES)
    assert snapshot(store, "t") == before


def test_peek_marks_absent_keys_and_leaves_no_trace(connect: Any, snapshot: Any) -> None:
    table = em.Table("t", dim=4, admission=em.MinCount(2), initializer=em.init.Constant(0.5))
    store = connect(table)
    store.pull("t", [1])
    store.pull("t", [1, 2])
    before = snapshot(store, "t")
    keys = np.array([1, 2, 3, 1], np.uint64)
    out, absent = np.full((4, 4), 9, np.float32), np.full(4, 7, np.uint8)
    store.peek_batch(["t"], [keys], [out], [absent])
    assert absent.tolist() == [0, 1, 1, 0]
    assert (out[[0, 3]] == 0.5).all()
    assert snapshot(store, "t") == before


def test_every_value_of_a_key_is_legal_and_its_own_row(connect: Any) -> None:
    store = connect(TABLE)
    gradient = np.arange(8, dtype=np.float32)[:, None] * np.ones(4, np.float32)
    store.push("t", EDGES, gradient)
    np.testing.assert_array_equal(store.pull("t", EDGES[::-1]), (0.5 - gradient)[::-1])
    for i, key in enumerate(EDGES.tolist()):
        shown = store.inspect("t", key)
        assert shown["key"] == key
        assert shown["values"] == [0.5 - i] * 4


def test_an_int64_key_is_its_bits(connect: Any) -> None:
    store = connect(TABLE)
    store.push("t", np.array([-1, -(2**63), 7], np.int64), ones(3))
    unsigned = np.array([2**64 - 1, 2**63, 7], np.uint64)
    assert (store.pull("t", unsigned, train=False) == -0.5).all()
    assert counters(store)["rows"] == 3


def test_duplicates_read_the_same_row_and_are_one_step(connect: Any) -> None:
    store = connect(TABLE)
    keys = np.array([5, 6, 5, 5], np.uint64)
    assert (store.pull("t", keys) == 0.5).all()
    assert counters(store)["admitted"] == 2
    store.push("t", keys, np.arange(4, dtype=np.float32)[:, None] * ones(4))
    assert store.pull("t", keys)[:, 0].tolist() == [-4.5, -0.5, -4.5, -4.5]
    assert counters(store)["updates"] == 2
    assert store.inspect("t", 5)["updates"] == 1


def test_push_admits_absent_keys_and_starts_from_their_first_values(connect: Any) -> None:
    store = connect(TABLE)
    store.push("t", [1, 2], ones(2))
    assert (store.pull("t", [1, 2], train=False) == -0.5).all()
    assert counters(store)["admitted"] == 2


@pytest.mark.parametrize("keys", [[], np.array([], np.uint64), np.array([], np.int64)], ids=repr)
def test_an_empty_batch_is_a_batch(connect: Any, keys: Any) -> None:
    store = connect(TABLE)
    assert store.pull("t", keys).shape == (0, 4)
    assert store.pull("t", keys, train=False).shape == (0, 4)
    store.push("t", keys, np.empty((0, 4), np.float32))
    assert counters(store)["rows"] == 0
    assert counters(store)["step"] == 1


def test_each_push_is_a_step_of_its_table_alone(connect: Any) -> None:
    store = connect(TABLE, em.Table("u", dim=2))
    for step in range(1, 4):
        store.push("t", [step], ones(1))
        assert store.inspect("t", step)["last_step"] == step
    assert counters(store)["step"] == 3
    assert counters(store, "u")["step"] == 0


def test_a_pulled_row_belongs_to_the_step_that_it_prepares(connect: Any, clock: Any) -> None:
    store = connect(TABLE, clock=clock)
    store.push("t", [1], ones(1))
    clock.now_s += 5
    store.pull("t", [2])
    row = store.inspect("t", 2)
    assert (row["last_step"], row["updates"]) == (2, 0)
    assert row["last_time_s"] == clock.now_s
    assert store.inspect("t", 1)["last_time_s"] == clock.now_s - 5


def test_pull_fills_and_returns_the_array_it_is_given(connect: Any) -> None:
    store = connect(TABLE)
    store.push("t", [1], ones(1))
    out = np.full((3, 4), 7, np.float32)
    assert store.pull("t", [1, 9, 1], out=out, train=False) is out
    assert out.tolist() == [[-0.5] * 4, [0.0] * 4, [-0.5] * 4]
    # Rows of a larger array, as a buffer that is used again gives them.
    arena = np.zeros((5, 4), np.float32)
    store.pull("t", [1], out=arena[2:3])
    assert arena.sum(axis=1).tolist() == [0, 0, -2, 0, 0]


def test_pulled_rows_are_a_copy(connect: Any) -> None:
    store = connect(TABLE)
    rows = store.pull("t", [1])
    rows += 100
    assert (store.pull("t", [1]) == 0.5).all()


@pytest.mark.parametrize("dim", [1, 2, 15, 16, 17, 31, 48, 4096])
def test_rows_of_any_width_come_back(connect: Any, dim: int) -> None:
    table = em.Table("t", dim=dim, optimizer=em.optim.SGD(lr=1.0), initializer=em.init.Zeros())
    store = connect(table)
    rng = np.random.default_rng(dim)
    keys = rng.integers(0, 2**64, 70, dtype=np.uint64)
    grads = rng.standard_normal((70, dim)).astype(np.float32)
    store.push("t", keys, grads)
    np.testing.assert_array_equal(store.pull("t", keys), -grads)


def test_a_million_keys_are_all_found_and_none_else(connect: Any) -> None:
    """Through many growths of the index, pulled in parts of uneven size."""
    table = em.Table("t", dim=1, optimizer=em.optim.SGD(lr=1.0), initializer=em.init.Zeros())
    store = connect(table)
    keys = np.arange(1_000_000, dtype=np.uint64) * np.uint64(3)
    for part in np.array_split(keys, [10, 1_000, 5_000, 200_000, 700_001]):
        store.push("t", part, -part.astype(np.float32)[:, None])
    np.testing.assert_array_equal(store.pull("t", keys)[:, 0], keys.astype(np.float32))
    assert (store.pull("t", keys + np.uint64(1), train=False) == 0).all()
    assert counters(store)["rows"] == 1_000_000


def test_slot_of_a_row_is_that_of_its_key_and_table(connect: Any) -> None:
    from embery.routing import slots_of  # noqa: PLC0415

    store = connect(TABLE, em.Table("u", dim=1))
    for name in ("t", "u"):
        store.pull(name, EDGES)
        slots = [store.inspect(name, key)["slot"] for key in EDGES.tolist()]
        assert slots == slots_of(name, EDGES).tolist()
        assert all(0 <= slot < 4096 for slot in slots)
    assert slots_of("t", EDGES).tolist() != slots_of("u", EDGES).tolist()
