"""Requests that wait together are scored together, and each gets its own scores."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest

from embery.data.block import Block
from embery.errors import DeadlineExceeded, InvalidArgument, ResourceExhausted
from embery.serving.batching import Batcher, BatchingOptions

Model = Callable[[int], Any]


def block_of(*values: float) -> Block:
    dense = np.array(values, np.float32).reshape(-1, 1)
    return Block(np.empty((len(values), 0), np.float32), dense, ())


def run(program: Callable[[Batcher], Coroutine[Any, Any, None]], **options: Any) -> list[int]:
    """Run a program with a batcher; return the sizes of the batches that it observed."""
    sizes: list[int] = []

    async def whole() -> None:
        await program(Batcher(BatchingOptions(**options), sizes.append))

    asyncio.run(whole())
    return sizes


def test_requests_of_one_moment_are_one_batch_and_keep_their_order(doubling: Model) -> None:
    model = doubling(1)

    async def program(batcher: Batcher) -> None:
        blocks = [block_of(1.0), block_of(2.0, 3.0), block_of(4.0)]
        found = await asyncio.gather(*(batcher.score(model, block) for block in blocks))
        assert [scores.tolist() for scores in found] == [[3], [5, 7], [9]]
        assert batcher.samples == 0

    assert run(program) == [4]


def test_a_batch_is_never_larger_than_allowed(doubling: Model) -> None:
    model = doubling(1)

    async def program(batcher: Batcher) -> None:
        found = await asyncio.gather(*(batcher.score(model, block_of(i, i)) for i in range(10)))
        assert [scores.tolist() for scores in found] == [[2 * i + 1] * 2 for i in range(10)]

    sizes = run(program, batch_max=5)
    assert max(sizes) <= 5
    assert sum(sizes) == 20


def test_two_versions_are_never_in_one_batch(doubling: Model) -> None:
    old, new = doubling(1), doubling(2)

    async def program(batcher: Batcher) -> None:
        models = [old, old, new, old, new, new]
        found = await asyncio.gather(*(batcher.score(model, block_of(0.0)) for model in models))
        assert [scores[0] for scores in found] == [1, 1, 2, 1, 2, 2]

    assert run(program) == [2, 1, 1, 2]


def test_a_full_batch_does_not_wait_for_the_delay(doubling: Model) -> None:
    async def program(batcher: Batcher) -> None:
        waiting = [batcher.score(doubling(1), block_of(1.0, 2.0))]
        await asyncio.wait_for(asyncio.gather(*waiting), timeout=10)

    # The delay is longer than the time that is allowed.
    assert run(program, batch_max=2, delay_ms=1000.0, queue_max=2) == [2]


def test_requests_within_the_delay_share_a_batch(doubling: Model) -> None:
    model = doubling(1)

    async def program(batcher: Batcher) -> None:
        first = asyncio.create_task(batcher.score(model, block_of(1.0)))
        for _ in range(5):
            await asyncio.sleep(0)  # Turns of the loop, in which a batch without delay would run.
        assert not first.done()
        await asyncio.gather(first, batcher.score(model, block_of(2.0)))

    assert run(program, delay_ms=50.0) == [2]


def test_more_than_the_queue_holds_is_refused_and_the_rest_is_served(doubling: Model) -> None:
    model = doubling(1)

    async def program(batcher: Batcher) -> None:
        requests = [batcher.score(model, block_of(1.0, 1.0)) for _ in range(4)]
        found = await asyncio.gather(*requests, return_exceptions=True)
        refused = [one for one in found if isinstance(one, ResourceExhausted)]
        assert len(refused) == 2
        assert "of 5 at most" in str(refused[0])

    assert run(program, batch_max=5, queue_max=5) == [4]


@pytest.mark.parametrize("count", [0, 6])
def test_a_request_of_no_sample_or_too_many_is_refused(doubling: Model, count: int) -> None:
    async def program(batcher: Batcher) -> None:
        with pytest.raises(InvalidArgument, match=f"1 to 5 samples, got {count}"):
            await batcher.score(doubling(1), block_of(*range(count)))

    assert run(program, batch_max=5) == []


def test_a_request_that_waited_too_long_is_refused_before_it_is_scored(doubling: Model) -> None:
    async def program(batcher: Batcher) -> None:
        with pytest.raises(DeadlineExceeded, match="waited"):
            await batcher.score(doubling(1), block_of(1.0))

    assert run(program, delay_ms=50.0, wait_s_max=0.001) == []


def test_a_caller_that_goes_away_is_not_scored(doubling: Model) -> None:
    model = doubling(1)

    async def program(batcher: Batcher) -> None:
        gone = asyncio.create_task(batcher.score(model, block_of(1.0, 2.0)))
        stays = asyncio.create_task(batcher.score(model, block_of(3.0)))
        await asyncio.sleep(0)
        gone.cancel()
        assert (await stays).tolist() == [7]
        assert batcher.samples == 0

    assert run(program, delay_ms=20.0) == [1]


def test_a_failure_reaches_all_requests_of_its_batch_and_no_other(doubling: Model) -> None:
    class Failing:
        def score(self, block: Block) -> None:
            raise RuntimeError("no memory")

    model: Any = Failing()

    async def program(batcher: Batcher) -> None:
        tasks = [batcher.score(model, block_of(1.0)) for _ in range(2)]
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [str(one) for one in found] == ["no memory"] * 2
        assert (await batcher.score(doubling(1), block_of(1.0))).tolist() == [3]

    assert run(program) == [1]


@pytest.mark.parametrize(
    "options",
    [{"batch_max": 0}, {"delay_ms": -1.0}, {"queue_max": 10}, {"wait_s_max": 0.0}],
    ids=str,
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match="--max-"):
        BatchingOptions(**options).validate()
