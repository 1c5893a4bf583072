"""Metrics of click models, computed while the scores stream by: AUC, logloss, calibration.

Scores and labels may be torch tensors or arrays of any one shape; labels are 0 or 1. Sums are
float64 and follow the order of the updates, so that the same stream gives the same bits. A score
that is NaN makes the results NaN: a metric that hides a diverged model lies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from embery.errors import InvalidArgument
from embery.validation import require_int

if TYPE_CHECKING:
    from embery.worker.group import WorkerGroup

F64 = NDArray[np.float64]
Outputs = Literal["logits", "probabilities"]
_FLOAT_BITS = 32
_SIGN = np.uint32(1 << 31)


class Metric(Protocol):
    """A number, or a few, computed from a stream of scores and labels."""

    def update(self, scores: Any, labels: Any) -> None:
        """Take in a batch."""
        ...

    def state(self) -> dict[str, Any]:
        """Return everything taken in, as plain values and arrays."""
        ...

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        ...


class AUC:
    """Area under the ROC curve from a histogram of the scores; ties count one half.

    A score falls into one of 2**bins_log2 bins by the leading bits of its float32, taken so that
    their order is that of the numbers: sign, exponent and, for 20 bits, 11 bits of the fraction.
    Scores of one bin count as tied. `error_bound` says how far the result can be from the exact
    one, computed from the very counts: half the pairs of a positive and a negative that share a
    bin. Sigmoid is monotone, so logits do as well as probabilities.
    """

    def __init__(self, *, bins_log2: int = 20) -> None:
        require_int("AUC.bins_log2", bins_log2, low=10, high=26)
        self._shift = np.uint32(_FLOAT_BITS - bins_log2)
        # Negatives and positives in each bin.
        self._counts = np.zeros((2, 1 << bins_log2), np.int64)
        self._nans = 0

    def update(self, scores: Any, labels: Any) -> None:
        """Take in a batch of scores with their labels."""
        values, positive = _flat(scores, labels)
        self._nans += int(np.isnan(values).sum())
        # Adding 0 turns -0 into 0: they are one number with two patterns of bits.
        bits = (values.astype(np.float32) + np.float32(0.0)).view(np.uint32)
        ordered = np.where(bits & _SIGN, ~bits, bits | _SIGN)
        np.add.at(self._counts, (positive.astype(np.intp), ordered >> self._shift), 1)

    def compute(self) -> float:
        """Return the AUC; NaN while there is no positive or no negative, or a score was NaN."""
        pairs = self._pairs()
        if pairs == 0:
            return math.nan
        negatives, positives = self._counts.astype(np.float64)
        below = np.cumsum(negatives) - negatives
        return float((positives * (below + negatives / 2)).sum() / pairs)

    def error_bound(self) -> float:
        """Return how far `compute` can be from the AUC of the unbinned scores, at most."""
        pairs = self._pairs()
        if pairs == 0:
            return math.nan
        negatives, positives = self._counts.astype(np.float64)
        return float((positives * negatives).sum() / 2 / pairs)

    def _pairs(self) -> float:
        negatives, positives = self._counts.sum(axis=1).tolist()
        return 0.0 if self._nans else float(negatives) * float(positives)

    def state(self) -> dict[str, Any]:
        """Return the counts of the bins that have any."""
        used = np.flatnonzero(self._counts.any(axis=0))
        return {"bins": used, "counts": self._counts[:, used], "nans": self._nans}

    def add_up(self, group: WorkerGroup) -> None:
        """Take in what the other workers of `group` have; all of them must call this."""
        nans = np.array([self._nans])
        group.add_up_arrays(self._counts, nans)
        self._nans = int(nans[0])

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        self._counts[:] = 0
        self._counts[:, state["bins"]] = state["counts"]
        self._nans = int(state["nans"])


class ExactAUC:
    """Area under the ROC curve from all scores, which are kept: 5 bytes a sample.

    The sum of ranks of Mann and Whitney (Annals of Mathematical Statistics 18, 1947); ties count
    one half.
    """

    def __init__(self) -> None:
        self._scores: list[NDArray[np.float32]] = []
        self._positive: list[NDArray[np.bool_]] = []

    def update(self, scores: Any, labels: Any) -> None:
        """Take in a batch of scores with their labels."""
        values, positive = _flat(scores, labels)
        self._scores.append(values.astype(np.float32))
        self._positive.append(positive)

    def compute(self) -> float:
        """Return the AUC; NaN while there is no positive or no negative, or a score was NaN."""
        state = self.state()
        values, which, tied = np.unique(state["scores"], return_inverse=True, return_counts=True)
        positives = int(state["positive"].sum())
        negatives = int(state["positive"].size) - positives
        if positives * negatives == 0 or np.isnan(values).any():
            return math.nan
        # Scores of one value share the mean of the ranks that they take up, counted from 1.
        mean_rank = np.cumsum(tied) - (tied - 1) / 2
        rank_sum = float(mean_rank[which[state["positive"]]].sum())
        return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)

    def state(self) -> dict[str, Any]:
        """Return all scores, float32, and whether each one's label is 1."""
        return {
            "scores": np.concatenate([np.empty(0, np.float32), *self._scores]),
            "positive": np.concatenate([np.empty(0, np.bool_), *self._positive]),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        self._scores, self._positive = [state["scores"]], [state["positive"]]


class LogLoss:
    """Mean cross-entropy in nats, from logits or from probabilities.

    A logit x with label y costs log(1 + exp(x)) - y x, computed without overflow; a probability is
    kept 1e-15 away from 0 and 1.
    """

    def __init__(self, *, outputs: Outputs = "logits") -> None:
        self._logits = _is_logits(outputs)
        self._sum, self._count = 0.0, 0

    def update(self, scores: Any, labels: Any) -> None:
        """Take in a batch of scores with their labels."""
        values, positive = _flat(scores, labels)
        if self._logits:
            with np.errstate(invalid="ignore"):  # A NaN stays one, and is no news.
                losses = np.logaddexp(0.0, values) - values * positive
        else:
            p = np.clip(values, 1e-15, 1 - 1e-15)
            losses = -np.log(np.where(positive, p, 1 - p))
        self._sum += float(losses.sum())
        self._count += losses.size

    def compute(self) -> float:
        """Return the mean; NaN while there is no sample."""
        return self._sum / self._count if self._count else math.nan

    def state(self) -> dict[str, Any]:
        """Return the sum and the count."""
        return {"sum": self._sum, "count": self._count}

    def add_up(self, group: WorkerGroup) -> None:
        """Take in what the other workers of `group` have; all of them must call this."""
        sums, counts = np.array([self._sum]), np.array([self._count])
        group.add_up_arrays(sums, counts)
        self._sum, self._count = float(sums[0]), int(counts[0])

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        self._sum, self._count = float(state["sum"]), int(state["count"])


class Calibration:
    """Mean prediction divided by mean label: 1 is calibrated, above 1 promises too many clicks."""

    def __init__(self, *, outputs: Outputs = "logits") -> None:
        self._logits = _is_logits(outputs)
        self._predicted, self._clicked = 0.0, 0

    def update(self, scores: Any, labels: Any) -> None:
        """Take in a batch of scores with their labels."""
        values, positive = _flat(scores, labels)
        self._predicted += float((_sigmoid(values) if self._logits else values).sum())
        self._clicked += int(positive.sum())

    def compute(self) -> float:
        """Return the ratio; NaN while no label is 1."""
        return self._predicted / self._clicked if self._clicked else math.nan

    def state(self) -> dict[str, Any]:
        """Return the two sums."""
        return {"predicted": self._predicted, "clicked": self._clicked}

    def add_up(self, group: WorkerGroup) -> None:
        """Take in what the other workers of `group` have; all of them must call this."""
        sums, counts = np.array([self._predicted]), np.array([self._clicked])
        group.add_up_arrays(sums, counts)
        self._predicted, self._clicked = float(sums[0]), int(counts[0])

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        self._predicted, self._clicked = float(state["predicted"]), int(state["clicked"])


class ClickMetrics:
    """AUC, logloss and calibration of one stream, together."""

    def __init__(self, *, outputs: Outputs = "logits") -> None:
        self._outputs = outputs
        self.auc = AUC()
        self.logloss = LogLoss(outputs=outputs)
        self.calibration = Calibration(outputs=outputs)

    def _parts(self) -> dict[str, Any]:
        return {"auc": self.auc, "logloss": self.logloss, "calibration": self.calibration}

    def update(self, scores: Any, labels: Any) -> None:
        """Take in a batch of scores with their labels."""
        for part in self._parts().values():
            part.update(scores, labels)

    def compute(self) -> dict[str, float]:
        """Return {"auc", "logloss", "calibration"}."""
        return {name: part.compute() for name, part in self._parts().items()}

    def of_all(self, group: WorkerGroup) -> ClickMetrics:
        """Return the metrics of all workers' streams together; all of them must call this."""
        if group.alone:
            return self
        together = ClickMetrics(outputs=self._outputs)
        together.load_state(self.state())
        for part in together._parts().values():
            part.add_up(group)
        return together

    def state(self) -> dict[str, Any]:
        """Return the state of each."""
        return {name: part.state() for name, part in self._parts().items()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        for name, part in self._parts().items():
            part.load_state(state[name])


def _is_logits(outputs: str) -> bool:
    if outputs not in ("logits", "probabilities"):
        raise InvalidArgument(f"outputs must be 'logits' or 'probabilities', got {outputs!r}")
    return outputs == "logits"


def _flat(scores: Any, labels: Any) -> tuple[F64, NDArray[np.bool_]]:
    """Return the scores as float64 and whether each label is 1, both flat."""
    values, truth = _as_array(scores), _as_array(labels)
    if values.size != truth.size:
        raise InvalidArgument(
            f"a metric needs a label a score, got scores {values.shape} and labels {truth.shape}"
        )
    values, truth = values.reshape(-1), truth.reshape(-1)
    positive = truth == 1
    if not (positive | (truth == 0)).all():
        wrong = truth[~(positive | (truth == 0))][0]
        raise InvalidArgument(f"a metric needs labels 0 or 1, got {wrong}")
    return values.astype(np.float64), positive


def _as_array(values: Any) -> NDArray[Any]:
    # A tensor, told without importing torch, which those who score bundles need not have.
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() else values
        return np.asarray(values.numpy())
    return np.asarray(values)


def _sigmoid(x: F64) -> F64:
    # exp of a negative number only: no overflow.
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, small) / (1.0 + small)
