"""What HTTP and gRPC both ask: is a model ready, what does it take, what does it say of samples."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import grpc
import numpy as np
from numpy.typing import NDArray

from embery.errors import EmberyError, InvalidArgument, Unavailable
from embery.serving.batching import Batcher, BatchingOptions
from embery.serving.histogram import Histogram
from embery.serving.refusals import ModelNotFound, grpc_code_of
from embery.serving.scorer import Scorer
from embery.serving.tensors import Array, features_of

PLATFORM = "embery_bundle"
# Seconds: 0.1 ms doubling to 3.3 s; samples: 1 doubling to 2048.
_TIMES_S = tuple(1e-4 * 2**i for i in range(16))
_SIZES = tuple(2.0**i for i in range(12))


@dataclass(slots=True)
class Traffic:
    """What was served so far.

    Args:
        answers: requests for scores, by protocol and gRPC code.
        times: seconds of those that got scores, by protocol.
        batches: samples that were scored in one call.
    """

    answers: Counter[tuple[str, str]] = field(default_factory=Counter)
    times: dict[str, Histogram] = field(
        default_factory=lambda: {name: Histogram(_TIMES_S) for name in ("http", "grpc")}
    )
    batches: Histogram = field(default_factory=lambda: Histogram(_SIZES))


class InferenceService:
    """One model, in the version that is current; all in the thread of one event loop.

    Args:
        name: of the model in requests.
        current: returns the version that new requests get; may be called at any time.
    """

    def __init__(
        self, name: str, current: Callable[[], Scorer], options: BatchingOptions | None = None
    ) -> None:
        self.name = name
        self.current = current
        self.traffic = Traffic()
        self.batcher = Batcher(options or BatchingOptions(), self.traffic.batches.add)
        self._in_flight = 0
        self._idle: asyncio.Future[None] | None = None

    @property
    def is_ready(self) -> bool:
        """Return whether requests for scores are taken."""
        return self._idle is None

    def scorer(self, name: str, version: str = "") -> Scorer:
        """Return what scores requests to a model; an empty `version` is the current one.

        Raises:
            ModelNotFound: another model or version.
        """
        current = self.current()
        if name != self.name:
            raise ModelNotFound(f"no model {name!r} here; this server has {self.name!r}")
        if version not in ("", str(current.version)):
            raise ModelNotFound(
                f"version {version} of model {name!r} is not served; version {current.version} is"
            )
        return current

    async def infer(
        self, name: str, version: str, tensors: Mapping[str, Array], outputs: Sequence[str] = ()
    ) -> tuple[Scorer, NDArray[np.float32]]:
        """Return the version that scored a request, and its scores, float32 (B,).

        Args:
            tensors: the inputs by name.
            outputs: those that the caller wants; none means all.

        Raises:
            ModelNotFound, InvalidArgument, ResourceExhausted, DeadlineExceeded: as `scorer`,
                `Scorer.read` and `Batcher.score` say.
            Unavailable: the server drains.
        """
        if self._idle is not None:
            raise Unavailable("the server is about to end and takes no more requests")
        self._in_flight += 1
        try:
            scorer = self.scorer(name, version)
            known = scorer.outputs[0].name
            for wanted in outputs:
                if wanted != known:
                    raise InvalidArgument(
                        f"output {wanted!r} is not known; the model has {known!r}"
                    )
            block = scorer.read(features_of(scorer.inputs, tensors))
            return scorer, await self.batcher.score(scorer, block)
        finally:
            self._in_flight -= 1
            if self._idle is not None and not self._in_flight and not self._idle.done():
                self._idle.set_result(None)

    def answered(self, protocol: str, seconds: float, error: Exception | None = None) -> None:
        """Count a request for scores, by what became of it."""
        if error is None:
            self.traffic.times[protocol].add(seconds)
            code = grpc.StatusCode.OK
        elif isinstance(error, EmberyError):
            code = grpc_code_of(error)
        else:
            code = grpc.StatusCode.INTERNAL
        self.traffic.answers[protocol, code.name] += 1

    async def drain(self, seconds: float) -> bool:
        """Refuse new requests and wait for those under way, so long at most; say if all ended."""
        self._idle = asyncio.get_running_loop().create_future()
        if not self._in_flight:
            return True
        done, _ = await asyncio.wait([self._idle], timeout=seconds)
        return bool(done)
