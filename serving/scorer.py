"""What an inference server calls: named features of a few samples in, one score a sample out.

    block = scorer.read({"user": np.array([7, 9]), "clicked": (keys, lengths), "price": prices})
    scores = scorer.score(block)

Reading checks a request and turns it into keys and numbers; scoring takes any rows that were read,
so that a server can refuse one request alone and score many together, joined by
`embery.data.block.concatenate`. Shape letters: B samples, N values of a feature in all samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from embery.data.block import Block

# The values of one feature: an array (B,), one value a sample, or (B, L), L of them; or values (N,)
# with lengths (B,), how many of them each sample has.
Values = NDArray[Any] | tuple[NDArray[Any], NDArray[Any]]
Features = Mapping[str, Values]
Kind = Literal["key", "number", "weight"]


@dataclass(frozen=True, slots=True)
class Input:
    """A feature that every request brings.

    Args:
        name: of the feature.
        kind: "key": integers of any width, taken as their 64 bits, or strings (str or bytes), which
            are hashed; "number": finite numbers, NaN for one that is missing; "weight": finite
            numbers, one for each key of the input `weighs`, of the same lengths.
        length_max: values of a sample, at most. A "number" has one value a sample; the others may
            have none.
        weighs: the input whose keys a "weight" weighs, else None.
    """

    name: str
    kind: Kind
    length_max: int = 1
    weighs: str | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """What a request gets: float32, one value a sample.

    Args:
        name: of the output.
        meaning: "logits" or "probabilities".
    """

    name: str
    meaning: Literal["logits", "probabilities"]


class Scorer(Protocol):
    """Scores samples with one version of a model. Thread-safe."""

    @property
    def version(self) -> int:
        """Return the version of the model, >= 1: the larger, the newer."""
        ...

    @property
    def inputs(self) -> tuple[Input, ...]:
        """Return what a request must bring, in a fixed order."""
        ...

    @property
    def outputs(self) -> tuple[Output, ...]:
        """Return what a request gets: one output in this version."""
        ...

    def read(self, features: Features) -> Block:
        """Return the samples of a request as keys and numbers.

        Args:
            features: the values of every input, by name, all of B samples.

        Raises:
            InvalidArgument: an input is missing or not known, has the wrong type or shape, another
                number of samples than the others, a list that is too long, or a weight or number
                that is not finite. The message names the input.
        """
        ...

    def score(self, block: Block) -> NDArray[np.float32]:
        """Return a score for each sample of what `read` returned, float32 (B,)."""
        ...
