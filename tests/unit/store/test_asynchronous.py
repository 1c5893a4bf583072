"""Asynchronous calls run in the order they were made, and their errors come from the future.

`freeze` holds the native store as a checkpoint does, so that what is pending stays pending.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

import embery as em

TABLE = em.Table("t", dim=2, optimizer=em.optim.SGD(lr=1.0), initializer=em.init.Zeros())


def ones(count: int = 1) -> Any:
    return np.ones((count, 2), np.float32)


def test_futures_are_done_in_the_order_of_the_calls(connect: Any) -> None:
    store = connect(TABLE)
    pulls = []
    for _ in range(50):
        pulls.append(store.pull_async("t", [1]))
        store.push_async("t", [1], ones())
    last = store.pull_async("t", [1], train=False)
    assert [float(pull.result(30)[0, 0]) for pull in pulls] == [-float(i) for i in range(50)]
    assert last.result(30).tolist() == [[-50.0, -50.0]]


def test_a_future_waits_while_the_store_is_frozen(connect: Any) -> None:
    store = connect(TABLE)
    store._native.freeze()
    try:
        push = store.push_async("t", [1], ones())
        # Evaluation goes on: nothing changes meanwhile, so nothing needs to wait.
        assert store.pull("t", [1], train=False).tolist() == [[0.0, 0.0]]
        assert not push.done()
    finally:
        store._native.thaw()
    assert push.result(30) is None
    assert store.pull("t", [1]).tolist() == [[-1.0, -1.0]]


def test_a_pull_without_training_inserts_nothing(connect: Any) -> None:
    store = connect(TABLE)
    assert store.pull_async("t", [7], train=False).result(30).tolist() == [[0.0, 0.0]]
    assert store.stats()["tables"]["t"]["rows"] == 0


def test_an_error_of_the_work_comes_from_its_future_and_later_calls_go_on(connect: Any) -> None:
    table = em.Table("t", dim=2, nonfinite="raise", initializer=em.init.Zeros())
    store = connect(table)
    bad = store.push_async("t", [1], np.full((1, 2), np.nan, np.float32))
    good = store.push_async("t", [2], ones())
    with pytest.raises(em.InvalidArgument, match="not finite"):
        bad.result(30)
    assert good.result(30) is None
    assert store.stats()["tables"]["t"]["rows"] == 1


def test_close_finishes_what_was_begun(connect: Any) -> None:
    store = connect(TABLE)
    store._native.freeze()
    pulls = [store.pull_async("t", [1]) for _ in range(3)]
    pushes = [store.push_async("t", [1], ones()) for _ in range(3)]
    closer = threading.Thread(target=store.close)
    closer.start()
    try:
        wait_until_closed(store)
    finally:
        store._native.thaw()
        closer.join(30)
    assert not closer.is_alive()
    for future in (*pulls, *pushes):
        assert future.exception(0) is None


def wait_until_closed(store: Any) -> None:
    """Return once calls are refused, which `close` sees to before it waits for pending work."""
    while True:
        try:
            store.stats()
        except em.Unavailable:
            return


def test_close_twice_and_from_several_threads(connect: Any) -> None:
    store = connect(TABLE)
    future = store.push_async("t", [1], ones())
    threads = [threading.Thread(target=store.close) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert future.done()
    store.close()
    with pytest.raises(em.Unavailable):
        store.push_async("t", [1], ones())
