"""Scores requests that wait at the same time in one call.

Requests that come while others are scored make the next batch, so a busy server batches by itself;
a delay lets an idle one wait for company. Nothing polls: a batch is run when the first of its
requests came, after the delay, or when it is full.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embery.data.block import Block, concatenate
from embery.errors import DeadlineExceeded, InvalidArgument, ResourceExhausted
from embery.serving.scorer import Scorer
from embery.validation import require_int, require_range

DELAY_MS_MAX = 1000.0
SAMPLES_MAX = 1_000_000


@dataclass(frozen=True, slots=True)
class BatchingOptions:
    """How requests are put together.

    Args:
        batch_max: samples of a request, and scored in one call, at most.
        delay_ms: how long a request may wait for others while nothing is scored.
        queue_max: samples that wait, at most; more are refused.
        wait_s_max: a request that has waited for longer is refused.
    """

    batch_max: int = 1024
    delay_ms: float = 0.0
    queue_max: int = 16384
    wait_s_max: float = 10.0

    def validate(self) -> None:
        """Raise `InvalidArgument` naming the first option that is wrong."""
        require_int("--max-batch", self.batch_max, low=1, high=SAMPLES_MAX)
        require_range("--max-delay", self.delay_ms, low=0, high=DELAY_MS_MAX)
        require_int("--max-queue", self.queue_max, low=self.batch_max, high=SAMPLES_MAX)
        require_range("--max-wait", self.wait_s_max, low=0, low_open=True)


@dataclass(slots=True)
class _Waiting:
    scorer: Scorer
    block: Block
    expires_s: float
    scores: asyncio.Future[NDArray[np.float32]]


class Batcher:
    """A queue of requests, and what scores them; all in the thread of one event loop.

    A request is scored by the version that read it. Requests of two versions, as there are while a
    version is switched, are never in one batch.
    """

    def __init__(self, options: BatchingOptions, observe: Callable[[int], None]) -> None:
        options.validate()
        self._options = options
        self._observe = observe
        self._queue: deque[_Waiting] = deque()
        self._next_run: asyncio.Handle | None = None
        self.samples = 0

    async def score(self, scorer: Scorer, block: Block) -> NDArray[np.float32]:
        """Return the scores of a request's samples, float32 (B,).

        Raises:
            InvalidArgument: there are more samples than a batch may have, or none.
            ResourceExhausted: the queue is full.
            DeadlineExceeded: the request has waited for too long.
        """
        count, options = len(block), self._options
        if not 1 <= count <= options.batch_max:
            raise InvalidArgument(f"a request has 1 to {options.batch_max} samples, got {count}")
        if self.samples + count > options.queue_max:
            raise ResourceExhausted(
                f"{self.samples} samples wait already, of {options.queue_max} at most; try later"
            )
        loop = asyncio.get_running_loop()
        waiting = _Waiting(scorer, block, loop.time() + options.wait_s_max, loop.create_future())
        self._queue.append(waiting)
        self.samples += count
        if self.samples >= options.batch_max:
            self._run()
        elif self._next_run is None:
            self._run_later(loop, options.delay_ms / 1e3)
        return await waiting.scores

    def _run_later(self, loop: asyncio.AbstractEventLoop, delay_s: float) -> None:
        if delay_s > 0:
            self._next_run = loop.call_later(delay_s, self._run)
        else:
            # After all requests that the loop has found in its sockets by now.
            self._next_run = loop.call_soon(self._run)

    def _run(self) -> None:
        """Score one batch; the next one, if any waits, has its turn after the sockets."""
        if self._next_run is not None:
            self._next_run.cancel()
            self._next_run = None
        loop = asyncio.get_running_loop()
        batch = self._take(loop.time())
        if batch:
            self._score(batch)
        if self._queue:
            self._run_later(loop, 0.0)

    def _take(self, now_s: float) -> list[_Waiting]:
        """Return the requests of the next batch: those of one version, from the oldest on."""
        batch: list[_Waiting] = []
        count = 0
        while self._queue:
            first = self._queue[0]
            size = len(first.block)
            if batch and (
                first.scorer is not batch[0].scorer or count + size > self._options.batch_max
            ):
                break
            self._queue.popleft()
            self.samples -= size
            if first.scores.done():
                continue  # Whoever asked has gone.
            if first.expires_s < now_s:
                text = f"waited for more than {self._options.wait_s_max:g} s; try later"
                first.scores.set_exception(DeadlineExceeded(text))
                continue
            batch.append(first)
            count += size
        return batch

    def _score(self, batch: list[_Waiting]) -> None:
        try:
            block = concatenate([waiting.block for waiting in batch])
            scores = batch[0].scorer.score(block)
        except Exception as error:
            for waiting in batch:
                waiting.scores.set_exception(error)
            return
        self._observe(len(block))
        begin = 0
        for waiting in batch:
            end = begin + len(waiting.block)
            waiting.scores.set_result(scores[begin:end])
            begin = end
