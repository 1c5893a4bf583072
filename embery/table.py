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
class Table:
    """A named set of rows with one dim, optimizer, initializer, admission and eviction policy.

    `dtype` is the storage of the values: "float32", "float16", "bfloat16" or "int8" (one float32
    scale a row); pulls and pushes are float32 always. `nonfinite` says what a push with a NaN or an
    infinity does: "reject" skips and counts the key, "raise" refuses the whole push. A sum of
    finite gradients that overflows is rejected and counted under either.
    """

    name: str
    dim: int = field(kw_only=True)
    optimizer: optim.Optimizer = field(kw_only=True, default=optim.RowwiseAdagrad())
    initializer: init.Initializer = field(kw_only=True, default=init.Uniform(0.01))
    dtype: Literal["float32", "float16", "bfloat16", "int8"] = field(
        kw_only=True, default="float32"
    )
    admission: MinCount | Probability | None = field(kw_only=True, default=None)
    eviction: TTL | LRU | LFU | None = field(kw_only=True, default=None)
    nonfinite: Literal["reject", "raise"] = field(kw_only=True, default="reject")

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
