"""Example requests of a bundle with the scores that training gave them: JSON of raw features.

The encoder and decoder of `examples.json`:

    {"features": {"price": [1.5, 2.0], "clicked": {"values": [7, 9], "lengths": [0, 2]}},
     "scores": [0.25, -1.5]}
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embery.data.block import Bags, Block
from embery.data.schema import Dense, Schema, SparseList
from embery.errors import CheckpointCorrupt
from embery.serving.scorer import Features, Values


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Requests and what they score.

    Args:
        features: of B samples, by input.
        scores: float32, (B,).
    """

    features: Features
    scores: NDArray[np.float32]

    def encode(self) -> bytes:
        """Return the bytes of `examples.json`."""
        features = {name: _plain(values) for name, values in self.features.items()}
        members = {"features": features, "scores": self.scores.astype(float).tolist()}
        return (json.dumps(members, indent=1, allow_nan=False) + "\n").encode()

    @staticmethod
    def decode(data: bytes, where: str) -> Examples:
        """Return the examples in `data`, read from the file `where`.

        Raises:
            CheckpointCorrupt: it is no such file.
        """
        try:
            members = json.loads(data)
            features = {name: _values(plain) for name, plain in members["features"].items()}
            return Examples(features, np.array(members["scores"], np.float32))
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
            raise CheckpointCorrupt(f"{where}: expected example requests, got: {error}") from error


def features_of(block: Block, schema: Schema) -> Features:
    """Return the request that reads as `block`; only keys can be told, not their strings."""
    features: dict[str, Values] = {}
    for j, number in enumerate(schema.dense):
        features[number.name] = _before_transform(block.dense[:, j], number)
    for bags, column in zip(block.sparse, schema.sparse, strict=True):
        features[column.key] = _request(bags, bags.values)
        if isinstance(column, SparseList) and column.weights is not None:
            weights = np.ones(len(bags.values)) if bags.weights is None else bags.weights
            features[column.weights] = _request(bags, weights)
    return features


def _before_transform(numbers: NDArray[np.float32], column: Dense) -> NDArray[Any]:
    wide = numbers.astype(np.float64)
    return np.expm1(wide) if column.transform == "log1p" else wide


def _request(bags: Bags, values: NDArray[Any]) -> Values:
    return values if bags.offsets is None else (values, bags.lengths())


def _plain(values: Values) -> Any:
    if isinstance(values, tuple):
        return {"values": values[0].tolist(), "lengths": values[1].tolist()}
    return values.tolist()


def _values(plain: Any) -> Values:
    if isinstance(plain, dict):
        return _array(plain["values"]), np.array(plain["lengths"], np.int64)
    return _array(plain)


def _array(values: list[Any]) -> NDArray[Any]:
    if values and all(isinstance(value, int) for value in values):
        return np.array(values, np.uint64 if min(values) >= 0 else np.int64)
    return np.array(values, np.float64) if values else np.empty(0, np.uint64)
