"""The definition of an embedding table: what a row holds and how it lives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from embery import init, optim
from embery.errors import InvalidArgument, SchemaMismatch
from embery.validation import require_int, require_range

DIM_MAX = 4096
NAME_BYTES_MAX = 255
Encoding = Literal["float32", "float16", "bfloat16", "int8"]
DTYPES = ("float32", "float16", "bfloat16", "int8")


@dataclass(frozen=True, slots=True)
class MinCount:
    """Admit a key when it has been seen in `count` batches.

    Pulls of training clients and pushes are counted apart, each distinct key once a call; the key
    is admitted by the call in which either number reaches `count`.
    """

    count: int = 2

    def validate(self) -> None:
        """Raise `InvalidArgument` unless 1 <= count <= 65535."""
        require_int("MinCount.count", self.count, low=1, high=65535)

    def to_dict(self) -> dict[str, Any]:
        """Return the definition as plain values."""
        return {"kind": "min_count", "count": int(self.count)}


@dataclass(frozen=True, slots=True)
class Probability:
    """Admit an absent key with probability `p`, drawn once a key and table step.

    The draw is a pure function of (seed, key, step).
    """

    p: float = 0.1
    seed: int = 0

    def validate(self) -> None:
        """Raise `InvalidArgument` unless 0 < p <= 1."""
        require_range("Probability.p", self.p, low=0.0, high=1.0, low_open=True)
        require_int("Probability.seed", self.seed, low=0, high=2**64 - 1)

    def to_dict(self) -> dict[str, Any]:
        """Return the definition as plain values."""
        return {"kind": "probability", "p": float(self.p), "seed": int(self.seed)}


@dataclass(frozen=True, slots=True)
class TTL:
    """Evict a row that no push has touched for `days` days plus `seconds` seconds."""

    days: float = 0.0
    seconds: float = 0.0

    @property
    def ttl_s(self) -> float:
        """Return the age in seconds at which a row goes."""
        return self.days * 86400.0 + self.seconds

    def validate(self) -> None:
        """Raise `InvalidArgument` unless the age is at least one second."""
        require_range("TTL.days", self.days, low=0.0)
        require_range("TTL.seconds", self.seconds, low=0.0)
        require_range("TTL (days and seconds, in seconds)", self.ttl_s, low=1.0, high=2**32 - 1)

    def to_dict(self) -> dict[str, Any]:
        """Return the definition as plain values."""
        return {"kind": "ttl", "ttl_s": round(self.ttl_s)}


@dataclass(frozen=True, slots=True)
class LRU:
    """Keep at most `max_rows` rows; the least recently inserted or pushed go first.

    Recency is counted in steps of the table: pushes. Among rows of one step the order is that of
    their mixed keys. Above 8192 rows a 64th goes at once, so that ranking pays.
    """

    max_rows: int

    def validate(self) -> None:
        """Raise `InvalidArgument` unless max_rows >= 1."""
        require_int(f"{type(self).__name__}.max_rows", self.max_rows, low=1, high=2**40)

    def to_dict(self) -> dict[str, Any]:
        """Return the definition as plain values."""
        return {"kind": "lru", "max_rows": int(self.max_rows)}


@dataclass(frozen=True, slots=True)
class LFU(LRU):
    """Keep at most `max_rows` rows; the least often updated go first, those of this step last."""

    def to_dict(self) -> dict[str, Any]:
        """Return the definition as plain values."""
        return {"kind": "lfu", "max_rows": int(self.max_rows)}


@dataclass(frozen=True, slots=True)
class Wire:
    """How a table's values travel between a worker and the servers, each way.

    "float32" loses nothing. "float16" and "bfloat16" take half the bytes, "int8" about a quarter:
    one byte a value and a float32 scale a row. All round to nearest and saturate at their largest
    value, 65504 for float16; a row with a NaN or an infinity arrives as NaN in every column, so
    that a server sees that a gradient was not finite. Servers store rows as `Table.dtype` says,
    whatever the wire; the embedded store has none.

    Gradients that are rounded have error feedback (Seide et al. 2014; Karimireddy et al. 2019): the
    worker keeps what rounding took from each key's gradient, and adds it to the key's next one.
    Sums of gradients stay right then, though every single one is rounded.

    Args:
        rows: encoding of pulled rows.
        grads: encoding of pushed gradients.
        residual_rows_max: keys whose residual (dim float32) a worker keeps. Beyond that the
            residuals of those that were pushed longest ago are dropped, at least the last half of
            the keys keeping theirs; `residuals_dropped` counts them. 0: no error feedback.

    Residuals are of a worker's memory alone: they go when it ends, and when a checkpoint is
    restored. What is lost with one is what one rounding takes.
    """

    rows: Encoding = "float32"
    grads: Encoding = "float32"
    residual_rows_max: int = 2**20

    def validate(self) -> None:
        """Raise `InvalidArgument` naming the first field that is wrong."""
        for name, value in (("rows", self.rows), ("grads", self.grads)):
            if value not in DTYPES:
                raise InvalidArgument(f"Wire.{name} must be one of {DTYPES}, got {value!r}")
        require_int("Wire.residual_rows_max", self.residual_rows_max, low=0, high=2**31)


@dataclass(frozen=True, slots=True)
class Table:
    """A named set of rows with one dim, optimizer, initializer, admission and eviction policy.

    `dtype` is the storage of the values: "float32", "float16", "bfloat16" or "int8" (one float32
    scale a row); pulls and pushes are float32 always. `nonfinite` says what a push with a NaN or an
    infinity does: "reject" skips and counts the key, "raise" refuses the whole push. A sum of
    finite gradients that overflows is rejected and counted under either.

    `wire` is how values travel to and from servers. It is the worker's choice and no part of the
    definition: neither `to_dict` nor a comparison of tables knows it, checkpoints do not hold it,
    and every worker may have its own.
    """

    name: str
    dim: int = field(kw_only=True)
    optimizer: optim.Optimizer = field(kw_only=True, default=optim.RowwiseAdagrad())
    initializer: init.Initializer = field(kw_only=True, default=init.Uniform(0.01))
    dtype: Encoding = field(kw_only=True, default="float32")
    admission: MinCount | Probability | None = field(kw_only=True, default=None)
    eviction: TTL | LRU | LFU | None = field(kw_only=True, default=None)
    nonfinite: Literal["reject", "raise"] = field(kw_only=True, default="reject")
    wire: Wire = field(kw_only=True, default=Wire(), compare=False)

    def __post_init__(self) -> None:
        self.validate()

    def validate(self) -> None:
        """Raise `InvalidArgument` naming the first field that is wrong."""
        if not isinstance(self.name, str) or not self.name:
            raise InvalidArgument(f"Table.name must be a non-empty string, got {self.name!r}")
        if _utf8_bytes(self.name) > NAME_BYTES_MAX or any(c in self.name for c in "/\\\0"):
            raise InvalidArgument(
                f"Table.name must have at most {NAME_BYTES_MAX} bytes and no '/', '\\' or NUL, "
                f"got {self.name!r}"
            )
        where = f"Table({self.name!r})"
        require_int(f"{where}.dim", self.dim, low=1, high=DIM_MAX)
        for name, kind in (("optimizer", optim.Optimizer), ("initializer", init.Initializer)):
            value = getattr(self, name)
            if not isinstance(value, kind) or type(value) is kind:
                raise InvalidArgument(
                    f"{where}.{name} must be one of em.{kind.__module__.split('.')[-1]}.*, "
                    f"got {value!r}"
                )
        if self.dtype not in DTYPES:
            raise InvalidArgument(f"{where}.dtype must be one of {DTYPES}, got {self.dtype!r}")
        if self.admission is not None and not isinstance(self.admission, MinCount | Probability):
            raise InvalidArgument(
                f"{where}.admission must be MinCount, Probability or None, got {self.admission!r}"
            )
        if self.eviction is not None and not isinstance(self.eviction, TTL | LRU):
            raise InvalidArgument(
                f"{where}.eviction must be TTL, LRU, LFU or None, got {self.eviction!r}"
            )
        if self.nonfinite not in ("reject", "raise"):
            raise InvalidArgument(
                f"{where}.nonfinite must be 'reject' or 'raise', got {self.nonfinite!r}"
            )
        if not isinstance(self.wire, Wire):
            raise InvalidArgument(f"{where}.wire must be an em.Wire, got {self.wire!r}")
        self.wire.validate()
        for part in (self.optimizer, self.initializer, self.admission, self.eviction):
            if part is not None:
                part.validate()

    def to_dict(self) -> dict[str, Any]:
        """Return the definition as plain values, as stored in manifests and sent to servers."""
        return {
            "name": self.name,
            "dim": int(self.dim),
            "dtype": self.dtype,
            "optimizer": self.optimizer.to_dict(),
            "initializer": self.initializer.to_dict(),
            "admission": self.admission.to_dict() if self.admission else None,
            "eviction": self.eviction.to_dict() if self.eviction else None,
            "nonfinite": self.nonfinite,
        }

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Table:
        """Return the table that `to_dict` described; raise `InvalidArgument` if it is not one."""
        try:
            return Table(
                values["name"],
                dim=values["dim"],
                optimizer=optim.from_dict(values["optimizer"]),
                initializer=init.from_dict(values["initializer"]),
                dtype=values["dtype"],
                admission=_policy_from_dict(values["admission"]),
                eviction=_policy_from_dict(values["eviction"]),
                nonfinite=values["nonfinite"],
            )
        except (KeyError, TypeError) as error:
            raise InvalidArgument(f"not the definition of a table: {error!r}") from error


def require_same(known: Table, wanted: Table, *, where: str = "") -> None:
    """Raise `SchemaMismatch`, its message beginning with `where`, if two definitions differ."""
    old, new = known.to_dict(), wanted.to_dict()
    fields = [
        f"{field}: it has {old[field]!r}, this one {new[field]!r}"
        for field in old
        if old[field] != new[field]
    ]
    if fields:
        raise SchemaMismatch(
            f"{where}table {known.name!r} exists with another definition ({'; '.join(fields)}); "
            "use the same definition, or another name"
        )


def _utf8_bytes(name: str) -> int:
    try:
        return len(name.encode())
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"Table.name must be valid Unicode, got {name!r}") from error


def _policy_from_dict(values: Mapping[str, Any] | None) -> Any:
    if values is None:
        return None
    kinds: dict[str, Any] = {
        "min_count": lambda v: MinCount(v["count"]),
        "probability": lambda v: Probability(v["p"], v["seed"]),
        "ttl": lambda v: TTL(seconds=v["ttl_s"]),
        "lru": lambda v: LRU(v["max_rows"]),
        "lfu": lambda v: LFU(v["max_rows"]),
    }
    return kinds[values["kind"]](values)
