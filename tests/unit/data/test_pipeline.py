"""The threads of a data set: order, bounds, errors, and an end to all of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from embery.data import Parquet, Schema
from embery.data.pipeline import in_background, in_order

pytestmark = pytest.mark.usefixtures("no_threads_left")


def reader_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("embery-data")]


def test_tasks_that_finish_out_of_order_are_yielded_in_order() -> None:
    last_is_done = threading.Event()

    def task(number: int) -> int:
        if number == 2:
            last_is_done.set()
        else:
            assert last_is_done.wait(30)
        return number

    tasks: list[Callable[[], int]] = [lambda n=n: task(n) for n in range(3)]  # type: ignore[misc]
    assert list(in_order(iter(tasks), threads=3)) == [0, 1, 2]


def test_no_more_tasks_are_started_than_may_run_ahead() -> None:
    started: list[int] = []

    def tasks() -> Generator[Callable[[], int], None, None]:
        for number in range(100):
            started.append(number)
            yield lambda: 0

    results = in_order(tasks(), threads=3)
    next(results)
    assert len(started) == 4
    results.close()


def test_an_error_of_a_task_comes_after_the_results_before_it() -> None:
    def fail() -> int:
        raise ValueError("task 1")

    results = in_order(iter([lambda: 0, fail, lambda: 2]), threads=2)
    assert next(results) == 0
    with pytest.raises(ValueError, match="task 1"):
        next(results)


def test_an_error_in_the_background_comes_after_the_items_before_it() -> None:
    def items() -> Generator[int, None, None]:
        yield 1
        yield 2
        raise ValueError("broken")

    ahead = in_background(items(), depth=5)
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(ValueError, match="broken"):
        next(ahead)


def test_the_background_stays_within_its_depth() -> None:
    made = 0
    third = threading.Event()

    def items() -> Generator[int, None, None]:
        nonlocal made
        for number in range(100):
            made += 1
            if made == 3:
                third.set()
            yield number

    ahead = in_background(items(), depth=1)
    assert next(ahead) == 0
    assert third.wait(30)
    # One item is taken, one waits in the queue, and one at most for a place in it.
    assert made == 3
    ahead.close()


def test_closing_ends_the_thread_and_the_generator_in_it() -> None:
    ended = threading.Event()

    def items() -> Generator[int, None, None]:
        try:
            while True:
                yield 0
        finally:
            ended.set()

    ahead = in_background(items(), depth=2)
    next(ahead)
    ahead.close()
    assert ended.is_set()


@pytest.mark.parametrize("shuffle", [False, True])
def test_an_iterator_that_is_left_early_leaves_no_thread(
    folder: Path, schema: Schema, shuffle: bool
) -> None:
    data = Parquet(folder, schema=schema, batch_size=8, shuffle=shuffle, shuffle_rows=64)
    for _ in data:
        break
    assert reader_threads() == []
    batches = data.batches()
    next(batches)
    assert reader_threads() != []
    del batches
    assert reader_threads() == []


def test_an_exception_in_the_consumer_leaves_no_thread(folder: Path, schema: Schema) -> None:
    def train() -> None:
        for _ in Parquet(folder, schema=schema, batch_size=8):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train()
