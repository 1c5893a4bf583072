"""A checkpoint taken while threads push is one cut: each push is in it whole, or not at all.

Conservation: SGD with lr 1 and integer gradients, so that sums are exact. Every push adds 1 to rows
of every slot group and every table; in a cut, all rows of a table have had the same pushes.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np

import embery as em

ROWS = 3000
KEYS = np.arange(ROWS, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
TABLES = [
    em.Table(name, dim=dim, optimizer=em.optim.SGD(lr=1.0), initializer=em.init.Zeros())
    for name, dim in (("a", 2), ("b", 5))
]


class Pushers:
    """Threads that push -1 to every row of every table until told to stop."""

    def __init__(self, store: Any, threads: int) -> None:
        self._store = store
        self._stop = threading.Event()
        self._pushed = threading.Condition()
        self.acknowledged = 0
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]

    def _run(self) -> None:
        grads = [np.full((ROWS, table.dim), -1, np.float32) for table in TABLES]
        while not self._stop.is_set():
            self._store.push_batch(["a", "b"], [KEYS, KEYS], grads)
            with self._pushed:
                self.acknowledged += 1
                self._pushed.notify_all()

    def wait_for(self, more: int) -> None:
        with self._pushed:
            wanted = self.acknowledged + more
            assert self._pushed.wait_for(lambda: self.acknowledged >= wanted, 30)

    def __enter__(self) -> Pushers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)


def test_every_push_is_in_the_cut_whole_or_not_at_all(connect: Any, tmp_path: Path) -> None:
    store = connect(*TABLES, threads=2)
    saved = []
    with Pushers(store, 3) as pushers:
        for number in range(4):
            pushers.wait_for(3)
            before = pushers.acknowledged
            path = store.checkpoint(tmp_path / str(number))
            saved.append((path, before, pushers.acknowledged))
            pushers.wait_for(1)
    last = 0
    for path, before, after in saved:
        restored = connect()
        restored.restore(path)
        rows = [restored.pull(table.name, KEYS, train=False) for table in TABLES]
        pushes = int(rows[0][0, 0])
        for table, values in zip(TABLES, rows, strict=True):
            assert (values == pushes).all()
            stats = restored.stats()["tables"][table.name]
            assert (stats["step"], stats["updates"]) == (pushes, pushes * ROWS)
        # Three threads may each have applied a push that was not yet acknowledged.
        assert last < before <= pushes <= after + 3
        last = pushes
    for table in TABLES:
        assert (store.pull(table.name, KEYS) == pushers.acknowledged).all()


def test_evaluation_pulls_go_on_while_the_store_is_frozen_and_pushes_wait(connect: Any) -> None:
    store = connect(*TABLES)
    store.pull("a", KEYS)
    store._native.freeze()
    done = threading.Event()

    def push() -> None:
        store.push("a", KEYS, np.ones((ROWS, 2), np.float32))
        done.set()

    thread = threading.Thread(target=push)
    thread.start()
    try:
        for _ in range(20):
            assert (store.pull("a", KEYS, train=False) == 0).all()
        assert not done.is_set()
    finally:
        store._native.thaw()
        thread.join(30)
    assert (store.pull("a", KEYS) == -1).all()


def test_eviction_waits_while_the_store_is_frozen(connect: Any, clock: Any) -> None:
    """Between the files of a checkpoint no row goes: `evict` is no exception."""
    store = connect(em.Table("t", dim=1, eviction=em.TTL(seconds=10)), clock=clock)
    store.pull("t", KEYS)
    clock.now_s += 100
    evicted: list[int] = []
    thread = threading.Thread(target=lambda: evicted.append(store.evict("t")))
    store._native.freeze()
    try:
        thread.start()
        thread.join(0.5)
        rows_while_frozen = store._native.stats(store._ids["t"])["rows"]
    finally:
        store._native.thaw()
        thread.join(30)
    assert rows_while_frozen == ROWS
    assert evicted == [ROWS]


def test_checkpoints_of_several_threads_take_turns(connect: Any, tmp_path: Path) -> None:
    store = connect(*TABLES)
    store.push("a", KEYS, np.ones((ROWS, 2), np.float32))
    paths: list[str] = []
    threads = [
        threading.Thread(target=lambda: paths.append(store.checkpoint(tmp_path))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(set(paths)) == 3
    for path in paths:
        restored = connect()
        restored.restore(path)
        assert (restored.pull("a", KEYS, train=False) == -1).all()
