"""What stands in the rows of the synthetic click log: ids, counts, histories.

All of it is a pure function of (seed, row), whatever other rows are asked for. Letters as in
`embery.data.clicklog`: F fields, J counts, n rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from embery.data.block import Bags, offsets_of
from embery.data.counter import normal, uniform

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]
Mask = NDArray[np.bool_]

USER, ITEM = 0, 1

_NOISE_SHARE = 0.1
_TASTES = 32


class Stream(IntEnum):
    """Distinct streams of random numbers of one seed; the values are part of the log."""

    ID = 1
    NOISE = 2
    PARENT = 3
    LATENT = 4
    COUNT = 5
    MISSING = 6
    COEFFICIENT = 7
    LABEL = 8
    LIFE = 9
    TURNED = 10
    HISTORY_LENGTH = 11
    HISTORY_PICK = 12
    TASTE = 13


@dataclass(frozen=True, slots=True)
class Draws:
    """Rows of the log, but for the clicks.

    Args:
        rows: uint64 (n,): the numbers of the rows.
        ranks: int64 (F, n): the rank of each field's id, 0 the most frequent.
        ids: uint64 (F, n): rank + cardinality * generation, so equal to the rank in a log whose ids
            do not die, and never again the same after an id's death.
        counts: int64 (J, n), >= -1; what stands in a missing one's place has no meaning.
        missing: bool (J, n).
        history: the ids of items, for each row; None where the log has no histories.
    """

    rows: U64
    ranks: I64
    ids: U64
    counts: I64
    missing: Mask
    history: Bags | None


@dataclass(frozen=True, slots=True)
class Traffic:
    """Draws rows; the arguments are those of `ClickLog`, which checks them."""

    seed: int
    cardinalities: tuple[int, ...]
    missing: tuple[float, ...]
    id_life_rows: int | None
    history: int

    def draw(self, rows: U64) -> Draws:
        """Return the rows of these numbers."""
        ranks = np.empty((len(self.cardinalities), len(rows)), np.int64)
        ids = np.empty(ranks.shape, np.uint64)
        for number in range(len(self.cardinalities)):
            draw = uniform(self.seed, Stream.ID, number, rows)
            if self._has_parent(number):
                given = uniform(self.seed, Stream.PARENT, number, ids[number % 2])
                noisy = uniform(self.seed, Stream.NOISE, number, rows) < _NOISE_SHARE
                draw = np.where(noisy, draw, given)
            ranks[number] = self._rank(number, draw)
            ids[number] = self._id(number, ranks[number], rows)
        counts, missing = self._counts(rows, ids)
        history = self._history(rows, ids[USER]) if self.history else None
        return Draws(rows, ranks, ids, counts, missing, history)

    def _has_parent(self, number: int) -> bool:
        """Say whether a field depends on the user (even numbers) or the item (odd): 60 % do."""
        return 2 <= number < 2 + round(0.6 * len(self.cardinalities))

    def _rank(self, number: int, draw: F64) -> I64:
        """Return ranks from 0, by inversion of the continuous power law on [1, cardinality]."""
        cardinality = self.cardinalities[number]
        power = 1.0 - (1.05 + 0.15 * number / (len(self.cardinalities) - 1))
        ranks = ((float(cardinality) ** power - 1.0) * draw + 1.0) ** (1.0 / power)
        # The clamps are for draws within rounding of the ends.
        clamped: I64 = np.clip(ranks.astype(np.int64) - 1, 0, cardinality - 1)
        return clamped

    def _id(self, number: int, ranks: I64, rows: U64) -> U64:
        """Return which id has the rank in the row: each lives `id_life_rows` rows."""
        ids: U64 = ranks.astype(np.uint64)
        if self.id_life_rows is None:
            return ids
        # Ranks are at different points of their lives in row 0, or all would die at once.
        age = (uniform(self.seed, Stream.LIFE, number, ids) * self.id_life_rows).astype(np.uint64)
        generation = (rows + age) // np.uint64(self.id_life_rows)
        ids += generation * np.uint64(self.cardinalities[number])
        return ids

    def _counts(self, rows: U64, ids: U64) -> tuple[I64, Mask]:
        counts = np.empty((len(self.missing), len(rows)), np.int64)
        missing = np.empty((len(self.missing), len(rows)), np.bool_)
        for j, share in enumerate(self.missing):
            mu = 0.5 + 2.5 * float(uniform(self.seed, Stream.COUNT, j, 0))
            sigma = 0.5 + float(uniform(self.seed, Stream.COUNT, j, 1))
            latent = normal(self.seed, Stream.COUNT, j, 2, ids[j % 2])
            z = 0.7 * latent + 0.7 * normal(self.seed, Stream.COUNT, j, 3, rows)
            counts[j] = np.floor(np.exp(mu + sigma * z)).astype(np.int64) - 1
            missing[j] = uniform(self.seed, Stream.MISSING, j, rows) < share
        return counts, missing

    def _history(self, rows: U64, users: U64) -> Bags:
        """Return for each row 0..history items, of the 32 (some alike) that its user is drawn to.

        A taste is for a rank: where its item has died, the history shows the one that came after.
        """
        draw = uniform(self.seed, Stream.HISTORY_LENGTH, rows)
        lengths = np.floor(draw * (self.history + 1)).astype(np.int64)
        offsets = offsets_of(lengths)
        rows, users = np.repeat(rows, lengths), np.repeat(users, lengths)
        place = (np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)).astype(np.uint64)
        pick = uniform(self.seed, Stream.HISTORY_PICK, rows, place)
        taste = np.floor(pick * _TASTES).astype(np.uint64)
        ranks = self._rank(ITEM, uniform(self.seed, Stream.TASTE, users, taste))
        return Bags(self._id(ITEM, ranks, rows), offsets)
