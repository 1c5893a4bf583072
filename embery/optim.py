"""Optimizers of embedding tables, fused into the push.

The gradient of a row is the sum over its occurrences in the batch, in order; each distinct row
takes one step. Notation below: w row, g gradient, t the number of updates this row has had (this
one included), T the number of pushes its table has had (this one included). All arithmetic is
float32 without fused multiply-add, so that every SIMD path gives the same bits; state is kept in
float32 beside the row whatever the storage dtype.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from embery.validation import require_range


@dataclass(frozen=True, slots=True)
class Optimizer:
    """Base of the optimizers; use one of the subclasses."""

    kind: ClassVar[str] = ""

    lr: float

    def validate(self) -> None:
        """Raise `InvalidArgument` if a hyper-parameter is out of its range."""
        require_range(f"{type(self).__name__}.lr", self.lr, low=0.0)

    def state_floats(self, dim: int) -> int:
        """Return how many float32 of state a row of `dim` values carries."""
        return 0

    def to_dict(self) -> dict[str, Any]:
        """Return the definition as plain values, as stored in manifests."""
        return {"kind": self.kind, **{k: float(v) for k, v in asdict(self).items()}}

    def _require(self, **ranges: tuple[float, float]) -> None:
        for field, (low, high) in ranges.items():
            value = getattr(self, field)
            open_end = high == 1.0
            require_range(
                f"{type(self).__name__}.{field}", value, low=low, high=high, high_open=open_end
            )


_POSITIVE = (0.0, float("inf"))
# As a float32 an eps below this is 0, and a first gradient of 0 would give 0 / 0.
_EPS = (1e-37, float("inf"))
_UNIT = (0.0, 1.0)


@dataclass(frozen=True, slots=True)
class SGD(Optimizer):
    """Stochastic gradient descent: g += weight_decay w;  w -= lr g.

    Source: Robbins and Monro, Annals of Mathematical Statistics 22 (1951); as `torch.optim.SGD`.
    """

    kind: ClassVar[str] = "sgd"

    lr: float = 0.01
    weight_decay: float = 0.0

    def validate(self) -> None:
        """Raise `InvalidArgument` if a hyper-parameter is out of its range."""
        Optimizer.validate(self)
        self._require(weight_decay=_POSITIVE)


@dataclass(frozen=True, slots=True)
class Momentum(Optimizer):
    """Heavy-ball momentum: g += weight_decay w;  m = momentum m + g;  w -= lr m.

    Rows that a batch does not touch keep their m. Source: Polyak, USSR Computational Mathematics
    4 (1964); a row's own sequence is as `torch.optim.SGD(momentum=...)`.
    """

    kind: ClassVar[str] = "momentum"

    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 0.0

    def validate(self) -> None:
        """Raise `InvalidArgument` if a hyper-parameter is out of its range."""
        Optimizer.validate(self)
        self._require(momentum=_UNIT, weight_decay=_POSITIVE)

    def state_floats(self, dim: int) -> int:
        """Return dim: m."""
        return dim


@dataclass(frozen=True, slots=True)
class Adagrad(Optimizer):
    """Adagrad: g += weight_decay w;  s += g^2;  w -= lr g / (sqrt(s) + eps).

    Source: Duchi, Hazan and Singer, JMLR 12 (2011); as `torch.optim.Adagrad`.
    """

    kind: ClassVar[str] = "adagrad"

    lr: float = 0.01
    eps: float = 1e-10
    initial_accumulator: float = 0.0
    weight_decay: float = 0.0

    def validate(self) -> None:
        """Raise `InvalidArgument` if a hyper-parameter is out of its range."""
        Optimizer.validate(self)
        self._require(eps=_EPS, initial_accumulator=_POSITIVE, weight_decay=_POSITIVE)

    def state_floats(self, dim: int) -> int:
        """Return dim: s."""
        return dim


@dataclass(frozen=True, slots=True)
class RowwiseAdagrad(Adagrad):
    """Adagrad with one accumulator a row: s += mean(g^2);  w -= lr g / (sqrt(s) + eps).

    As FBGEMM's EXACT_ROWWISE_ADAGRAD (Naumov et al., arXiv 1906.00091): a dim-th of the state.
    """

    kind: ClassVar[str] = "rowwise_adagrad"

    eps: float = 1e-8

    def state_floats(self, dim: int) -> int:
        """Return 1: s."""
        return 1


@dataclass(frozen=True, slots=True)
class Adam(Optimizer):
    """Adam on each row's own sequence of gradients.

    g += weight_decay w;  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;
    w -= lr / (1 - b1^t) m / (sqrt(v) / sqrt(1 - b2^t) + eps).

    t counts the row's own updates, so a row that appears late is corrected for its own age. Source:
    Kingma and Ba, ICLR 2015; each row is as `torch.optim.Adam` on that row alone.
    """

    kind: ClassVar[str] = "adam"

    lr: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0

    def validate(self) -> None:
        """Raise `InvalidArgument` if a hyper-parameter is out of its range."""
        Optimizer.validate(self)
        self._require(beta1=_UNIT, beta2=_UNIT, eps=_EPS, weight_decay=_POSITIVE)

    def state_floats(self, dim: int) -> int:
        """Return 2 dim: m, then v."""
        return 2 * dim


@dataclass(frozen=True, slots=True)
class LazyAdam(Adam):
    """Adam with the table's step in the bias correction: T in place of t.

    Only the rows of a batch move. As TensorFlow's LazyAdam; as `torch.optim.SparseAdam` but for
    eps, which is added after the bias correction here and before it there.
    """

    kind: ClassVar[str] = "lazy_adam"


@dataclass(frozen=True, slots=True)
class AdamW(Adam):
    """Adam with decoupled weight decay: first w -= lr weight_decay w, then Adam without it.

    Source: Loshchilov and Hutter, ICLR 2019; each row is as `torch.optim.AdamW` on that row alone.
    """

    kind: ClassVar[str] = "adamw"

    weight_decay: float = 0.01


@dataclass(frozen=True, slots=True)
class FTRL(Optimizer):
    """Follow the regularised leader, proximal, per coordinate.

    n' = n + g^2;  sigma = (sqrt(n') - sqrt(n)) / lr;  z += g - sigma w;  n = n';
    w = 0 if |z| <= l1, else -(z - sign(z) l1) / ((beta + sqrt(n)) / lr + l2).

    Source: McMahan et al., "Ad click prediction: a view from the trenches", KDD 2013, algorithm 1.
    A row's first z is chosen so that its initial value stands until its first update.
    """

    kind: ClassVar[str] = "ftrl"

    lr: float = 0.05
    beta: float = 1.0
    l1: float = 0.0
    l2: float = 0.0

    def validate(self) -> None:
        """Raise `InvalidArgument` if a hyper-parameter is out of its range."""
        require_range("FTRL.lr", self.lr, low=0.0, low_open=True)
        self._require(beta=_POSITIVE, l1=_POSITIVE, l2=_POSITIVE)

    def state_floats(self, dim: int) -> int:
        """Return 2 dim: z, then n."""
        return 2 * dim


_KINDS: dict[str, type[Optimizer]] = {
    kind.kind: kind
    for kind in (SGD, Momentum, Adagrad, RowwiseAdagrad, Adam, LazyAdam, AdamW, FTRL)
}


def from_dict(values: Mapping[str, Any]) -> Optimizer:
    """Return the optimizer that `Optimizer.to_dict` described."""
    return _KINDS[values["kind"]](**{k: v for k, v in values.items() if k != "kind"})
