"""Threads of one process on one store: nothing is lost, and nobody sees half a row."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import embery as em

THREADS = 4
DTYPES = ["float32", "bfloat16"]


def table_of(dim: int, **fields: Any) -> em.Table:
    fields = {"optimizer": em.optim.SGD(lr=1.0), "initializer": em.init.Zeros(), **fields}
    return em.Table("t", dim=dim, **fields)


def at_once(*work: Callable[[], Any]) -> list[Any]:
    """Run all of `work` in threads that start together; raise what one of them raised."""
    barrier = threading.Barrier(len(work))

    def run(task: Callable[[], Any]) -> Any:
        barrier.wait(30)
        return task()

    with ThreadPoolExecutor(len(work)) as pool:
        return [future.result(50) for future in [pool.submit(run, task) for task in work]]


@contextmanager
def repeating(task: Callable[[], None]) -> Iterator[None]:
    """Call `task` over and over in another thread, at least once, while the block runs."""
    stop, begun = threading.Event(), threading.Event()

    def run() -> None:
        while not stop.is_set():
            task()
            begun.set()

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(run)
        try:
            while not begun.wait(0.1) and not future.done():
                continue
            yield
        finally:
            stop.set()
            future.result(50)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("size", [50, 10_000])
def test_no_gradient_is_lost_or_applied_twice(connect: Any, threads: int, size: int) -> None:
    """Integer gradients, SGD with lr 1: the sum is exact in whatever order they come."""
    store = connect(table_of(3), threads=threads)
    steps = 40 if size == 50 else 6
    batches = []
    for thread in range(THREADS):
        rng = np.random.default_rng(thread)
        batches.append([
            (
                rng.integers(0, 2 * size, size, dtype=np.uint64),
                rng.integers(-50, 50, (size, 3)).astype(np.float32),
            )
            for _ in range(steps)
        ])  # fmt: skip

    def push(thread: int) -> None:
        for keys, grads in batches[thread]:
            store.push("t", keys, grads)

    at_once(*(lambda t=t: push(t) for t in range(THREADS)))
    expected = np.zeros((2 * size, 3), np.float32)
    distinct = 0
    for keys, grads in (batch for of_thread in batches for batch in of_thread):
        np.subtract.at(expected, keys, grads)
        distinct += len(np.unique(keys))
    pulled = store.pull("t", np.arange(2 * size, dtype=np.uint64), train=False)
    np.testing.assert_array_equal(pulled, expected)
    stats = store.stats()["tables"]["t"]
    assert (stats["step"], stats["updates"]) == (THREADS * steps, distinct)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("train", [True, False])
def test_no_pull_sees_half_a_row(connect: Any, dtype: Any, train: bool) -> None:
    """All columns of a row are equal after every push, hence at every read.

    The gradients of a thread are 1 and -1 in turn: small integers, exact in every storage type.
    """
    dim, keys = 64, np.arange(200, dtype=np.uint64)
    store = connect(table_of(dim, dtype=dtype))
    store.pull("t", keys)

    def pusher() -> Callable[[], None]:
        signs = itertools.cycle((1, -1))
        return lambda: store.push("t", keys, np.full((200, dim), next(signs), np.float32))

    with repeating(pusher()), repeating(pusher()):
        for _ in range(400):
            rows = store.pull("t", keys, train=train)
            assert (rows == rows[:, :1]).all()
            assert (abs(rows) <= 2).all()


def test_no_pull_sees_an_older_row_than_the_pull_before(connect: Any) -> None:
    keys, grads = np.arange(200, dtype=np.uint64), np.ones((200, 1), np.float32)
    store = connect(table_of(1))
    last = np.zeros((200, 1), np.float32)
    with repeating(lambda: store.push("t", keys, grads)):
        for _ in range(400):
            rows = store.pull("t", keys)
            assert (rows <= last).all()
            last = rows


def test_no_peek_or_inspect_sees_half_a_row(connect: Any) -> None:
    dim, keys = 64, np.arange(50, dtype=np.uint64)
    store = connect(table_of(dim))
    store.pull("t", keys)
    out, absent = np.empty((50, dim), np.float32), np.empty(50, np.uint8)
    grads = np.ones((50, dim), np.float32)
    with repeating(lambda: store.push("t", keys, grads)):
        for _ in range(300):
            store.peek_batch(["t"], [keys], [out], [absent])
            assert not absent.any()
            assert (out == out[:, :1]).all()
            row = store.inspect("t", 7)
            assert row["values"] == [-float(row["updates"])] * dim


def test_a_key_that_many_insert_at_once_becomes_one_row(connect: Any) -> None:
    store = connect(table_of(4, initializer=em.init.Normal(1.0)), threads=2)
    keys = np.arange(30_000, dtype=np.uint64)
    pulled = at_once(*(lambda k=keys[::s]: store.pull("t", k) for s in (1, -1, 1, -1)))
    np.testing.assert_array_equal(pulled[0], pulled[1][::-1])
    np.testing.assert_array_equal(pulled[0], pulled[2])
    stats = store.stats()["tables"]["t"]
    assert stats["rows"] == stats["admitted"] == 30_000


@pytest.mark.parametrize("eviction", [em.LRU(300), em.LFU(300), em.TTL(seconds=1)], ids=str)
def test_readers_see_whole_rows_while_rows_come_and_go(connect: Any, eviction: Any) -> None:
    """Records of deleted rows are used again for other keys, beside those who read."""
    seconds = iter(range(10**9))
    table = table_of(32, eviction=eviction, initializer=em.init.Constant(1.0))
    store = connect(table, clock=lambda: next(seconds) // 8)
    rng = np.random.default_rng(0)

    def churn() -> None:
        keys = rng.integers(0, 1000, 100, dtype=np.uint64)
        store.push("t", keys, np.full((100, 32), -1.0, np.float32))

    keys = np.arange(1000, dtype=np.uint64)
    with repeating(churn):
        for _ in range(200):
            rows = store.pull("t", keys, train=False)
            assert (rows == rows[:, :1]).all()
            assert (rows >= 0).all()
    stats = store.stats()["tables"]["t"]
    assert stats["rows"] == stats["admitted"] - stats["deleted"]
    assert stats["evicted"] > 0


def test_tables_can_be_created_and_told_of_while_others_train(connect: Any) -> None:
    store = connect(table_of(2))
    keys, grads = np.arange(100, dtype=np.uint64), np.ones((100, 2), np.float32)
    with repeating(lambda: store.push("t", keys, grads)):
        for number in range(50):
            store.create_table(em.Table(f"t{number}", dim=1))
            store.pull(f"t{number}", keys)
            assert store.stats()["servers"]["embedded"]["tables"] == number + 2
    assert all(store.stats()["tables"][f"t{n}"]["rows"] == 100 for n in range(50))
