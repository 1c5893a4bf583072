"""Checkpoints of a cluster that trains on: of one moment between two pushes of every worker."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embery as em
from embery import checkpoint
from embery.cli.membership import wait_until
from embery.rpc.client import CoordinatorClient

WORKERS = 2
KEYS = 3000
WAIT_S = 60.0
# A push is ones for all keys of a worker: at any moment between pushes these rows are equal.
TABLES = [
    em.Table(name, dim=2, optimizer=em.optim.SGD(lr=1.0), initializer=em.init.Zeros())
    for name in ("a", "b")
]


def keys_of(worker: int) -> Any:
    return np.arange(worker * KEYS, (worker + 1) * KEYS, dtype=np.uint64)


def push(store: em.Store, worker: int) -> None:
    ones = np.full((KEYS, 2), -1.0, np.float32)
    keys = keys_of(worker)
    store.push_batch([t.name for t in TABLES], [keys, keys], [ones, ones])


@contextmanager
def pushing(url: str, *, together: bool) -> Iterator[Callable[[int], bool]]:
    """Push from several workers; yield what waits until all have made so many pushes more."""
    made = [0] * WORKERS
    changed, stopping = threading.Condition(), threading.Event()
    last = 0

    def work(worker: int, store: em.Store) -> None:
        nonlocal last
        while True:
            with changed:
                if stopping.is_set() and not (together and made[worker] < last):
                    return
                last = max(last, made[worker] + 1)
            push(store, worker)
            with changed:
                made[worker] += 1
                changed.notify_all()

    def wait(count: int) -> bool:
        with changed:
            goal = [m + count for m in made]
            return changed.wait_for(lambda: all(map(int.__ge__, made, goal)), 30)

    with ExitStack() as stack:
        threads = []
        for worker in range(WORKERS):
            store = stack.enter_context(em.connect(url))
            if together:
                store.join_group(worker, WORKERS)
            threads.append(threading.Thread(target=work, args=(worker, store)))
        for thread in threads:
            thread.start()
        try:
            yield wait
        finally:
            stopping.set()
            for thread in threads:
                thread.join(30)


def pushes_in(path: str) -> list[int]:
    """Return how many pushes of each worker are in a checkpoint, all of each in all of its rows."""
    with em.connect("embedded:") as store:
        store.restore(path)
        counts = []
        for worker in range(WORKERS):
            rows = [store.pull(t.name, keys_of(worker), train=False) for t in TABLES]
            values = np.unique(np.concatenate(rows))
            assert values.size == 1, f"rows of worker {worker} are of {values} pushes"
            counts.append(int(values[0]))
        return counts


@pytest.mark.parametrize("together", [False, True], ids=["apart", "in one group"])
def test_a_cut_is_between_two_pushes_of_every_worker(
    run_cluster: Any, tmp_path: Path, together: bool
) -> None:
    with run_cluster(2) as url, em.connect(url) as saver:
        for table in TABLES:
            saver.create_table(table)
        paths = []
        with pushing(url, together=together) as wait:
            for _ in range(5):
                assert wait(2)
                paths.append(saver.checkpoint(tmp_path, delta=True))
            assert wait(2)
        paths.append(saver.checkpoint(tmp_path, delta=True))
        kinds = [checkpoint.open_unchecked(path).manifest.kind for path in paths]
        assert kinds == ["full", *["delta"] * 5]
        counts = [pushes_in(path) for path in paths]
        for before, after in itertools.pairwise(counts):
            assert all(map(int.__lt__, before, after))
        if together:
            assert all(count == count[:1] * WORKERS for count in counts)
        for worker in range(WORKERS):
            rows = saver.pull("a", keys_of(worker), train=False)
            assert (rows == counts[-1][worker]).all()


def test_a_delta_of_another_process_builds_on_the_last_one_and_after_moves_too(
    run_cluster: Any, tmp_path: Path
) -> None:
    keys = np.arange(5000, dtype=np.uint64)
    half, ones = keys[::2], np.full((2500, 2), -1.0, np.float32)
    with run_cluster(2) as url, closing(CoordinatorClient(url)) as coordinator:
        with em.connect(url) as first:
            first.create_table(TABLES[0])
            first.pull("a", keys)
            first.checkpoint(tmp_path)
            first.push("a", half, ones)
        coordinator.drain(0)
        assert wait_until(coordinator, lambda s: int((s.routing.owners == 0).sum()), WAIT_S) == 0
        with em.connect(url) as second:
            second.push("a", half, ones)
            path = second.checkpoint(tmp_path, delta=True)
            expected = second.pull("a", keys, train=False)
    found = checkpoint.open(path)
    assert (found.manifest.kind, found.tables["a"].rows) == ("delta", half.size)
    with em.connect("embedded:") as again:
        again.restore(path)
        assert np.array_equal(again.pull("a", keys, train=False), expected)
        assert expected[:2].tolist() == [[2, 2], [0, 0]]


def test_servers_that_were_not_all_in_the_last_checkpoint_save_all(
    run_cluster: Any, tmp_path: Path
) -> None:
    with run_cluster(2) as url, em.connect(url) as store:
        store.create_table(TABLES[0])
        store.checkpoint(tmp_path)
        store._servers[1].note_saved("")  # type: ignore[attr-defined]  as one that has joined since
        path = store.checkpoint(tmp_path, delta=True)
        assert checkpoint.open_unchecked(path).manifest.kind == "full"
        path = store.checkpoint(tmp_path, delta=True)
        assert checkpoint.open_unchecked(path).manifest.kind == "delta"


def test_a_saver_that_vanishes_ends_its_cut(run_cluster: Any, tmp_path: Path) -> None:
    with run_cluster(2) as url, em.connect(url) as store:
        store.create_table(TABLES[0])
        saver = em.connect(url)
        cut = saver._cut()  # type: ignore[attr-defined]
        cut.__enter__()
        for server in saver._servers.values():  # type: ignore[attr-defined]
            server.close()
        store.push("a", [1], np.ones((1, 2), np.float32))
        assert checkpoint.open(store.checkpoint(tmp_path)).tables["a"].rows == 1
        saver.close()
