"""The model of `benchmarks.serving` in Triton's Python backend: the same lookup and dense part.

Copied into a model repository; `{path}` becomes the folders to import from, `{bundle}` the bundle.
"""

from __future__ import annotations

import sys
from typing import Any

PATH = "{path}"
sys.path[:0] = PATH.split(":")

import triton_python_backend_utils as triton  # noqa: E402  only there within Triton

from embery.data.block import concatenate  # noqa: E402  from what was just put into the path
from embery.serving.bundle import Bundle  # noqa: E402


class TritonPythonModel:
    """What Triton loads."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the bundle."""
        self._scorer = Bundle.open("{bundle}").scorer(threads=1)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Score the requests of one batch together."""
        blocks = [self._scorer.read(self._features(request)) for request in requests]
        scores = self._scorer.score(concatenate(blocks))
        answers, begin = [], 0
        for block in blocks:
            end = begin + len(block)
            output = triton.Tensor(self._scorer.outputs[0].name, scores[begin:end, None])
            answers.append(triton.InferenceResponse([output]))
            begin = end
        return answers

    def _features(self, request: Any) -> dict[str, Any]:
        return {
            one.name: triton.get_input_tensor_by_name(request, one.name).as_numpy()
            for one in self._scorer.inputs
        }
