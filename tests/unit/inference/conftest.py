from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from embery.data.block import Block
from embery.data.schema import Schema
from embery.serving.requests import RequestReader
from embery.serving.scorer import Features, Output


class Doubling:
    """A model of one number: its score is twice that, plus the version."""

    outputs = (Output("score", "logits"),)

    def __init__(self, version: int) -> None:
        self.version = version
        self.batches: list[int] = []
        self._reader = RequestReader(Schema(label="y", dense=["x"]))
        self.inputs = self._reader.inputs

    def read(self, features: Features) -> Block:
        return self._reader.read(features)

    def score(self, block: Block) -> NDArray[np.float32]:
        self.batches.append(len(block))
        return 2 * block.dense[:, 0] + np.float32(self.version)


@pytest.fixture
def doubling() -> Callable[[int], Doubling]:
    return Doubling
