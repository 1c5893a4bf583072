"""A synthetic click log of any size whose optimum is known.

Row r is a pure function of (seed, r), and what an id means of (seed, field, id): nothing is stored,
and any part of the log can be made on its own. Keys are Zipf-distributed; most fields depend on the
user or the item; counts are log-normal, some missing; a click is drawn with a probability that is a
logistic function of one weight an id, of products of factors of pairs of ids, and of the counts. So
the best possible AUC and logloss are computable, and so is what can be learnt from a given number
of training rows (`embery.data.synthetic.optimum`).

If asked for, ids die and are replaced, their meaning drifts, and rows have a history of items.

Shape letters: F fields, J counts, n rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embery.data.block import Bags
from embery.data.counter import mix, normal, uniform
from embery.data.meaning import Knowledge, Meaning
from embery.data.schema import Dense, Schema, Sparse, SparseList
from embery.data.traffic import ITEM, Draws, Stream, Traffic
from embery.errors import InvalidArgument
from embery.validation import require_int, require_range, require_seed

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Mask = NDArray[np.bool_]

# Rows that no log contains, for what is fitted to the whole distribution.
_PILOT_BEGIN = 2**63
_PILOT_ROWS = 2**15
# So many pilot rows in a life or a period: the fit is to the mean of 32 of them.
_PILOT_ROWS_A_PERIOD = 2**10

_PERIOD_ROWS_MAX = 2**40
_HISTORY_MAX = 2**10


@dataclass(frozen=True, slots=True)
class ClickRows(Draws):
    """Rows of the log, by what they were made of; see `Draws`.

    Args:
        probability: float64 (n,), of a click.
        click: bool (n,).
    """

    probability: F64
    click: Mask


@dataclass(frozen=True, slots=True)
class ClickLog:
    """The definition of a log.

    Args:
        seed: 0 <= seed < 2**64.
        ctr: share of clicks, in (0, 1); an average over time where ids die or drift.
        cardinalities: number of ids of each field, at least two: the user, the item, then others.
        missing: share of missing values of each count.
        interaction: scale of the products of factors; 0 makes the log linear.
        id_life_rows: after so many rows the id of a rank is replaced by another one, with another
            key and another meaning, which never comes back as long as rows / id_life_rows times the
            cardinality stays below 2**64; 1 to 2**40, or None: ids live for ever.
        drift_rows: the period, in rows, with which all weights and factors of ids turn between two
            independent values: what was learnt is void a quarter later; 1 to 2**40, or None.
        history: greatest length of the list column "history", 0 to 1024, of items that the user of
            the row is drawn to. The mean of their factors is multiplied with the item's. The keys
            are those of the item. 0: no such column.
    """

    seed: int = 0
    ctr: float = 0.22
    cardinalities: tuple[int, ...] = (1_000, 500, 500, 200, 200, 100, 100, 50, 20, 10)
    missing: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2, 0.4)
    interaction: float = 0.25
    id_life_rows: int | None = None
    drift_rows: int | None = None
    history: int = 0
    _traffic: Traffic = field(init=False, repr=False, compare=False)
    _meaning: Meaning = field(init=False, repr=False, compare=False)
    _fit: _Fit = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.validate()
        traffic = Traffic(
            self.seed, self.cardinalities, self.missing, self.id_life_rows, self.history
        )
        meaning = Meaning(self.seed, len(self.cardinalities), self.interaction, self.drift_rows)
        object.__setattr__(self, "_traffic", traffic)
        object.__setattr__(self, "_meaning", meaning)
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
        for name in ("id_life_rows", "drift_rows"):
            if (period := getattr(self, name)) is not None:
                require_int(f"ClickLog.{name}", period, low=1, high=_PERIOD_ROWS_MAX)
        require_int("ClickLog.history", self.history, low=0, high=_HISTORY_MAX)

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
        """Return the schema: the label, log1p of the counts, a feature each field, the history."""
        dense = [Dense(name, transform="log1p") for name in self.count_names]
        sparse: list[str | Sparse] = [*self.names]
        if self.history:
            sparse.append(SparseList("history"))
        return Schema(label="label", dense=dense, sparse=sparse)

    def draws(self, begin: int, end: int) -> Draws:
        """Return the rows begin..end-1 without the clicks, 0 <= begin <= end <= 2**63."""
        return self._traffic.draw(np.arange(begin, end, dtype=np.uint64))

    def rows(self, begin: int, end: int) -> ClickRows:
        """Return the rows begin..end-1, 0 <= begin <= end <= 2**63."""
        draws = self.draws(begin, end)
        probability = sigmoid(self.logit(draws))
        return ClickRows(
            rows=draws.rows,
            ranks=draws.ranks,
            ids=draws.ids,
            counts=draws.counts,
            missing=draws.missing,
            history=draws.history,
            probability=probability,
            click=uniform(self.seed, Stream.LABEL, draws.rows) < probability,
        )

    def records(self, begin: int, end: int) -> pa.RecordBatch:
        """Return the rows begin..end-1 as Arrow columns.

        They are: label int8, i1.. int32, keys int64, and where there are histories, history
        list<int64>.
        """
        rows = self.rows(begin, end)
        arrays = [pa.array(rows.click.astype(np.int8))]
        for counts, missing in zip(rows.counts, rows.missing, strict=True):
            arrays.append(pa.array(counts.astype(np.int32), mask=missing))
        for number, ids in enumerate(rows.ids):
            arrays.append(pa.array(mix(number, ids).view(np.int64)))
        names = ["label", *self.count_names, *self.names]
        if rows.history is not None:
            arrays.append(_lists(rows.history))
            names.append("history")
        return pa.RecordBatch.from_arrays(arrays, names)

    def logit(self, draws: Draws, knowledge: Knowledge | None = None) -> F64:
        """Return the log-odds of a click, float64 (n,).

        Args:
            draws: n rows.
            knowledge: what of the ids' meaning counts, see `Meaning.logit`; None means all.
        """
        logit = self._meaning.logit(draws, knowledge)
        numbers = (_log1p(draws) - self._fit.mean[:, None]) / self._fit.std[:, None]
        logit += self._fit.coefficients @ numbers
        logit += self._fit.bias
        return logit

    def _fitted(self) -> _Fit:
        """Fit the counts' mean and deviation, and the bias that gives the wanted click rate."""
        period = max(self.id_life_rows or 0, self.drift_rows or 0)
        step = max(1, period // _PILOT_ROWS_A_PERIOD)
        end = _PILOT_BEGIN + step * _PILOT_ROWS
        draws = self._traffic.draw(np.arange(_PILOT_BEGIN, end, step, dtype=np.uint64))
        numbers = _log1p(draws)
        mean, std = numbers.mean(axis=1), np.maximum(numbers.std(axis=1), 1e-6)
        coefficients = np.array(
            [0.2 * float(normal(self.seed, Stream.COEFFICIENT, j)) for j in range(len(numbers))]
        )
        logit = self._meaning.logit(draws, None)
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


def _lists(history: Bags) -> pa.Array:
    """Return lists of the keys of items, list<int64>."""
    assert history.offsets is not None
    keys = pa.array(mix(ITEM, history.values).view(np.int64))
    return pa.ListArray.from_arrays(pa.array(history.offsets.astype(np.int32)), keys)


def _log1p(draws: Draws) -> F64:
    """Return log(1 + max(count, 0)), 0 where missing: what a `Dense` with "log1p" reads."""
    return np.where(draws.missing, 0.0, np.log1p(np.maximum(draws.counts, 0)))


def sigmoid(logit: F64) -> F64:
    """Return 1 / (1 + exp(-logit))."""
    return 1.0 / (1.0 + np.exp(-logit))
