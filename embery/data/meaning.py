"""What ids mean in the synthetic click log, and how much of it can be known from training rows.

Letters as in `embery.data.clicklog`: F fields, n rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from embery.data.block import Bags
from embery.data.counter import normal
from embery.data.traffic import ITEM, USER, Draws, Stream

F64 = NDArray[np.float64]
U64 = NDArray[np.uint64]
Mask = NDArray[np.bool_]

_WEIGHT_SCALE = 0.25
_FACTORS = 4
# A mean of several factors is smaller than one factor: this gives histories a weight.
_HISTORY_SCALE = 3.0
_MERGE_IDS_MIN = 2**16


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What training rows tell of the ids.

    Args:
        known: for each field, uint64, ascending: the ids whose meaning can be learnt.
        until: number of the row before which training ended. Meanings are known as of then.
    """

    known: tuple[U64, ...]
    until: int

    def knows(self, number: int, ids: U64) -> Mask:
        """Return for each id of a field whether it is known, of the shape of `ids`."""
        known = self.known[number]
        if len(known) == 0:
            return np.zeros(ids.shape, np.bool_)
        place = np.minimum(np.searchsorted(known, ids), len(known) - 1)
        return np.asarray(known[place] == ids)


class Sightings:
    """Counts how often each id of a field was seen. Not thread-safe."""

    def __init__(self) -> None:
        self._parts: list[tuple[U64, NDArray[np.int64]]] = []
        self._merge_above = _MERGE_IDS_MIN

    def add(self, ids: U64) -> None:
        """Count ids, uint64 of any number."""
        self._parts.append(np.unique(ids, return_counts=True))
        if sum(len(part) for part, _ in self._parts) > self._merge_above:
            # Twice what remains, so that an id is merged a logarithmic number of times.
            self._merge_above = max(_MERGE_IDS_MIN, 2 * len(self._merged()[0]))

    def at_least(self, times: int) -> U64:
        """Return the ids that were seen at least so many times, ascending."""
        ids, counts = self._merged()
        return ids[counts >= times]

    def _merged(self) -> tuple[U64, NDArray[np.int64]]:
        ids = np.concatenate([np.empty(0, np.uint64), *(part for part, _ in self._parts)])
        counts = np.concatenate([np.empty(0, np.int64), *(counts for _, counts in self._parts)])
        distinct, place = np.unique(ids, return_inverse=True)
        sums = np.zeros(len(distinct), np.int64)
        np.add.at(sums, place, counts)
        self._parts = [(distinct, sums)]
        return distinct, sums


@dataclass(frozen=True, slots=True)
class Meaning:
    """A weight for each id and, for those of some fields, factors, of which pairs are multiplied.

    Where ids drift, a number m of theirs is cos(t) a + sin(t) b in row r, t = 2 pi r / drift_rows,
    with a and b independent: after a quarter of the period it says nothing of what it was.

    Args:
        seed, interaction, drift_rows: as in `ClickLog`, which checks them.
        fields: F.
    """

    seed: int
    fields: int
    interaction: float
    drift_rows: int | None

    def logit(self, draws: Draws, knowledge: Knowledge | None) -> F64:
        """Return what the ids add to the log-odds of a click, float64 (n,).

        With `knowledge`, what a model that stays as it was can know of that: an id that is not
        known adds nothing; when all has turned by t since, weights count cos(t) times, which is
        their conditional mean, but nothing once they point the other way, and products cos(t)**2.
        """
        turn, weight_turn = self._turns(draws.rows, knowledge)
        logit = np.zeros(len(draws.rows))
        factors: dict[int, list[F64]] = {}
        for number, ids in enumerate(draws.ids):
            seen = 1.0 if knowledge is None else knowledge.knows(number, ids)
            logit += _WEIGHT_SCALE * seen * self._numbers(number, 0, ids, weight_turn)
            if number in self._interacting():
                factors[number] = [
                    seen * self._numbers(number, k, ids, turn) for k in range(1, _FACTORS + 1)
                ]
        pairs: list[tuple[Sequence[F64], Sequence[F64]]] = [*combinations(factors.values(), 2)]
        if draws.history is not None:
            pairs.append((self._history(draws.history, turn, knowledge), factors[ITEM]))
        for left, right in pairs:
            for a, b in zip(left, right, strict=True):
                logit += self.interaction * (a * b)
        return logit

    def _interacting(self) -> list[int]:
        """Return the fields with factors: user, item and the last two, all of whose pairs count."""
        return sorted({USER, ITEM, self.fields - 2, self.fields - 1})

    def _history(
        self, history: Bags, turn: F64 | None, knowledge: Knowledge | None
    ) -> Sequence[F64]:
        """Return three times the mean of each factor over each row's items, 0 without items."""
        lengths = history.lengths()
        row = np.repeat(np.arange(len(lengths)), lengths)
        turn = None if turn is None else turn[:, row]
        seen = 1.0 if knowledge is None else knowledge.knows(ITEM, history.values)
        means = []
        for k in range(1, _FACTORS + 1):
            numbers = seen * self._numbers(ITEM, k, history.values, turn)
            # The sum of a row takes its items in order, whatever other rows there are.
            sums = np.bincount(row, weights=numbers, minlength=len(lengths))
            means.append(_HISTORY_SCALE * sums / np.maximum(lengths, 1))
        return means

    def _numbers(self, number: int, k: int, ids: U64, turn: F64 | None) -> F64:
        """Return weights (k = 0) or factors of ids of a field."""
        numbers = normal(self.seed, Stream.LATENT, number, k, ids)
        if turn is None:
            return numbers
        numbers *= turn[0]
        numbers += turn[1] * normal(self.seed, Stream.TURNED, number, k, ids)
        return numbers

    def _turns(self, rows: U64, knowledge: Knowledge | None) -> tuple[F64 | None, F64 | None]:
        """Return the shares of a and b in factors, and in weights: float64 (2, n) each."""
        if self.drift_rows is None:
            return None, None
        turn = _circle(rows, self.drift_rows)
        if knowledge is None:
            return turn, turn
        then = _circle(np.array([knowledge.until], np.uint64), self.drift_rows)
        cosine = (turn * then).sum(axis=0)
        return cosine * then, np.maximum(cosine, 0.0) * then


def _circle(rows: U64, period: int) -> F64:
    """Return cosine and sine of the angle of each row, float64 (2, n)."""
    angle = (2 * np.pi / period) * (rows % np.uint64(period)).astype(np.float64)
    return np.stack([np.cos(angle), np.sin(angle)])
