"""A synthetic click log of any size whose optimum is known.

Row r is a pure function of (seed, r), and what an id means of (seed, field, id): nothing is stored,
and any part of the log can be made on its own. Keys are Zipf-distributed; most fields depend on the
user or the item; counts are log-normal, some missing; a click is drawn with a probability that is a
logistic function of one weight an id, of products of factors of pairs of ids, and of the counts. So
the best possible AUC and logloss are computable, and so is what can be learnt from a given number
of training rows (`embery.data.synthetic.optimum`).

Shape letters: F fields, J counts, n rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embery.data.counter import mix, normal, uniform
from embery.data.schema import Dense, Schema
from embery.errors import InvalidArgument
from embery.validation import require_int, require_range, require_seed

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Mask = NDArray[np.bool_]

# Distinct streams of random numbers of one seed; their values are part of the log's definition.
_ID, _NOISE, _PARENT, _LATENT = 1, 2, 3, 4
_COUNT, _MISSING, _COEFFICIENT, _LABEL = 5, 6, 7, 8

# Rows that no log contains, for what is fitted to the whole distribution.
_PILOT_BEGIN = 2**63
_PILOT_ROWS = 2**15

_NOISE_SHARE = 0.1
_WEIGHT_SCALE = 0.25
_FACTORS = 4


@dataclass(frozen=True, slots=True)
class ClickRows:
    """Rows of the log, by what they were made of.

    Args:
        ranks: int64 (F, n): the id of each field, 0 the most frequent.
        counts: int64 (J, n), >= -1; what stands in a missing one's place has no meaning.
        missing: bool (J, n).
        probability: float64 (n,), of a click.
        click: bool (n,).
    """

    ranks: I64
    counts: I64
    missing: Mask
    probability: F64
    click: Mask


@dataclass(frozen=True, slots=True)
class ClickLog:
    """The definition of a log.

    Args:
        seed: 0 <= seed < 2**64.
        ctr: share of clicks, in (0, 1).
        cardinalities: number of ids of each field, at least two: the user, the item, then others.
        missing: share of missing values of each count.
        interaction: scale of the products of factors; 0 makes the log linear.
    """

    seed: int = 0
    ctr: float = 0.22
    cardinalities: tuple[int, ...] = (1_000, 500, 500, 200, 200, 100, 100, 50, 20, 10)
    missing: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2, 0.4)
    interaction: float = 0.25
    _fit: _Fit = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.validate()
        object.__setattr__(self, "_fit", self._fitted())

    def validate(self) -> None:
        """Raise `InvalidArgument` if a field is out of its range."""
        require_seed("ClickLog.seed", self.seed)
        require_range("ClickLog.ctr", self.ctr, low=0, high=1, low_open=True, high_open=True)
        require_range("ClickLog.interaction", self.interaction, low=0)
        if len(self.cardinalities) < 2:
            raise InvalidArgument(
                "ClickLog.cardinalities must name at least the user's and the item's, got "
                f"{self.cardinalities!r}"
            )
        for number in self.cardinalities:
            require_int("ClickLog.cardinalities", number, low=2, high=2**40)
        for share in self.missing:
            require_range("ClickLog.missing", share, low=0, high=1)

    @property
    def names(self) -> list[str]:
        """Return the names of the fields."""
        return ["user", "item", *(f"c{i}" for i in range(1, len(self.cardinalities) - 1))]

    @property
    def count_names(self) -> list[str]:
        """Return the names of the counts."""
        return [f"i{j}" for j in range(1, len(self.missing) + 1)]

    @property
    def schema(self) -> Schema:
        """Return the schema of the log: the label, log1p of the counts, a feature each field."""
        dense = [Dense(name, transform="log1p") for name in self.count_names]
        return Schema(label="label", dense=dense, sparse=self.names)

    def rows(self, begin: int, end: int) -> ClickRows:
        """Return the rows begin..end-1, 0 <= begin <= end <= 2**63."""
        rows = np.arange(begin, end, dtype=np.uint64)
        ranks = self._ranks(rows)
        counts, missing = self._counts(rows, ranks)
        probability = sigmoid(self.logit(ranks, counts, missing))
        click = uniform(self.seed, _LABEL, rows) < probability
        return ClickRows(ranks, counts, missing, probability, click)

    def records(self, begin: int, end: int) -> pa.RecordBatch:
        """Return the rows begin..end-1 as Arrow columns: label int8, i1.. int32, keys int64."""
        rows = self.rows(begin, end)
        arrays = [pa.array(rows.click.astype(np.int8))]
        for counts, missing in zip(rows.counts, rows.missing, strict=True):
            arrays.append(pa.array(counts.astype(np.int32), mask=missing))
        for number, ranks in enumerate(rows.ranks):
            arrays.append(pa.array(mix(number, ranks.astype(np.uint64)).view(np.int64)))
        return pa.RecordBatch.from_arrays(arrays, ["label", *self.count_names, *self.names])

    def logit(self, ranks: I64, counts: I64, missing: Mask, known: list[Mask] | None = None) -> F64:
        """Return the log-odds of a click, float64 (n,).

        Args:
            ranks, counts, missing: as in `ClickRows`.
            known: for each field, bool (cardinality,): an id that is not known counts for nothing.
        """
        logit = self._raw_logit(ranks, known)
        numbers = (_log1p(counts, missing) - self._fit.mean[:, None]) / self._fit.std[:, None]
        logit += self._fit.coefficients @ numbers
        logit += self._fit.bias
        return logit

    def _ranks(self, rows: NDArray[np.uint64]) -> I64:
        """Return the id of each field: drawn, or for most fields given by the user or the item."""
        ranks = np.empty((len(self.cardinalities), len(rows)), np.int64)
        for number in range(len(self.cardinalities)):
            draw = uniform(self.seed, _ID, number, rows)
            if self._has_parent(number):
                given = uniform(self.seed, _PARENT, number, ranks[number % 2].astype(np.uint64))
                noisy = uniform(self.seed, _NOISE, number, rows) < _NOISE_SHARE
                draw = np.where(noisy, draw, given)
            ranks[number] = _zipf(draw, self.cardinalities[number], self._exponent(number))
        return ranks

    def _has_parent(self, number: int) -> bool:
        """Say whether a field depends on the user (even numbers) or the item (odd): 60 % do."""
        return 2 <= number < 2 + round(0.6 * len(self.cardinalities))

    def _exponent(self, number: int) -> float:
        return 1.05 + 0.15 * number / (len(self.cardinalities) - 1)

    def _counts(self, rows: NDArray[np.uint64], ranks: I64) -> tuple[I64, Mask]:
        counts = np.empty((len(self.missing), len(rows)), np.int64)
        missing = np.empty((len(self.missing), len(rows)), np.bool_)
        for j, share in enumerate(self.missing):
            mu = 0.5 + 2.5 * float(uniform(self.seed, _COUNT, j, 0))
            sigma = 0.5 + float(uniform(self.seed, _COUNT, j, 1))
            latent = normal(self.seed, _COUNT, j, 2, ranks[j % 2].astype(np.uint64))
            z = 0.7 * latent + 0.7 * normal(self.seed, _COUNT, j, 3, rows)
            counts[j] = np.floor(np.exp(mu + sigma * z)).astype(np.int64) - 1
            missing[j] = uniform(self.seed, _MISSING, j, rows) < share
        return counts, missing

    def _raw_logit(self, ranks: I64, known: list[Mask] | None) -> F64:
        """Return what the ids contribute: a weight each, and products of factors of pairs."""
        logit = np.zeros(ranks.shape[1])
        factors: dict[int, list[F64]] = {}
        for number, ids in enumerate(ranks):
            seen = 1.0 if known is None else known[number][ids]
            words = ids.astype(np.uint64)
            logit += _WEIGHT_SCALE * seen * normal(self.seed, _LATENT, number, 0, words)
            if number in self._interacting():
                factors[number] = [
                    seen * normal(self.seed, _LATENT, number, k, words)
                    for k in range(1, _FACTORS + 1)
                ]
        for left, right in combinations(factors.values(), 2):
            for a, b in zip(left, right, strict=True):
                logit += self.interaction * (a * b)
        return logit

    def _interacting(self) -> list[int]:
        """Return the fields with factors: user, item and the last two, all of whose pairs count."""
        last = len(self.cardinalities) - 1
        return sorted({0, 1, last - 1, last})

    def _fitted(self) -> _Fit:
        """Fit the counts' mean and deviation, and the bias that gives the wanted click rate."""
        rows = np.arange(_PILOT_BEGIN, _PILOT_BEGIN + _PILOT_ROWS, dtype=np.uint64)
        ranks = self._ranks(rows)
        numbers = _log1p(*self._counts(rows, ranks))
        mean, std = numbers.mean(axis=1), np.maximum(numbers.std(axis=1), 1e-6)
        coefficients = np.array(
            [0.2 * float(normal(self.seed, _COEFFICIENT, j)) for j in range(len(self.missing))]
        )
        logit = self._raw_logit(ranks, None)
        logit += coefficients @ ((numbers - mean[:, None]) / std[:, None])
        low, high = -50.0, 50.0
        for _ in range(60):
            bias = (low + high) / 2
            if sigmoid(logit + bias).mean() < self.ctr:
                low = bias
            else:
                high = bias
        return _Fit(mean, std, coefficients, bias)


@dataclass(frozen=True, slots=True)
class _Fit:
    """What is fitted to pilot rows: float64 (J,) each, and the bias."""

    mean: F64
    std: F64
    coefficients: F64
    bias: float


def _zipf(draw: F64, cardinality: int, exponent: float) -> I64:
    """Return ranks from 0, by inversion of the continuous power law on [1, cardinality]."""
    power = 1.0 - exponent
    ranks = ((float(cardinality) ** power - 1.0) * draw + 1.0) ** (1.0 / power)
    # The clamps are for draws within rounding of the ends.
    clamped: I64 = np.clip(ranks.astype(np.int64) - 1, 0, cardinality - 1)
    return clamped


def _log1p(counts: I64, missing: Mask) -> F64:
    """Return log(1 + max(count, 0)), 0 where missing: what a `Dense` with "log1p" reads."""
    return np.where(missing, 0.0, np.log1p(np.maximum(counts, 0)))


def sigmoid(logit: F64) -> F64:
    """Return 1 / (1 + exp(-logit))."""
    return 1.0 / (1.0 + np.exp(-logit))
