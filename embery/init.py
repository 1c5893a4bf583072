"""Initial values of rows.

A value is a pure function of (seed, key, column): a counter-based generator (the splitmix64
finaliser of Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014,
chained over seed, key and column) turned into the distribution. Nothing depends on the order in
which rows appear, on the server or on the time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from embery.errors import InvalidArgument
from embery.validation import require_finite, require_seed


@dataclass(frozen=True, slots=True)
class Initializer:
    """Base of the initializers; use one of the subclasses."""

    def validate(self) -> None:
        """Raise `InvalidArgument` if a parameter is out of its range."""

    def to_dict(self) -> dict[str, Any]:
        """Return the definition as plain values, as stored in manifests."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Zeros(Initializer):
    """All values 0."""

    def to_dict(self) -> dict[str, Any]:
        """Return the definition as plain values."""
        return {"kind": "zeros", "a": 0.0, "b": 0.0, "seed": 0}


@dataclass(frozen=True, slots=True)
class Constant(Initializer):
    """All values `value`."""

    value: float = 0.0

    def validate(self) -> None:
        """Raise `InvalidArgument` if the value is not finite."""
        require_finite("Constant.value", self.value)

    def to_dict(self) -> dict[str, Any]:
        """Return the definition as plain values."""
        return {"kind": "constant", "a": float(self.value), "b": 0.0, "seed": 0}


@dataclass(frozen=True, slots=True)
class Uniform(Initializer):
    """Uniform in [-scale, scale]."""

    scale: float = 0.01
    seed: int = 0

    def validate(self) -> None:
        """Raise `InvalidArgument` unless scale > 0 and 0 <= seed < 2**64."""
        require_finite("Uniform.scale", self.scale)
        require_seed("Uniform.seed", self.seed)
        if self.scale <= 0:
            raise InvalidArgument(f"Uniform.scale must be > 0, got {self.scale}")

    def to_dict(self) -> dict[str, Any]:
        """Return the definition as plain values."""
        return {"kind": "uniform", "a": float(self.scale), "b": 0.0, "seed": int(self.seed)}


@dataclass(frozen=True, slots=True)
class Normal(Initializer):
    """Normal with mean `mean` and standard deviation `std`, by inversion of the CDF.

    The inverse is algorithm AS 241 (Wichura, Applied Statistics 37, 1988).
    """

    std: float = 0.01
    mean: float = 0.0
    seed: int = 0

    def validate(self) -> None:
        """Raise `InvalidArgument` unless std > 0 and 0 <= seed < 2**64."""
        require_finite("Normal.std", self.std)
        require_finite("Normal.mean", self.mean)
        require_seed("Normal.seed", self.seed)
        if self.std <= 0:
            raise InvalidArgument(f"Normal.std must be > 0, got {self.std}")

    def to_dict(self) -> dict[str, Any]:
        """Return the definition as plain values."""
        return {
            "kind": "normal",
            "a": float(self.std),
            "b": float(self.mean),
            "seed": int(self.seed),
        }


@dataclass(frozen=True, slots=True)
class TruncatedNormal(Normal):
    """Normal restricted to two standard deviations around the mean."""

    def to_dict(self) -> dict[str, Any]:
        """Return the definition as plain values."""
        return {
            "kind": "truncated_normal",
            "a": float(self.std),
            "b": float(self.mean),
            "seed": int(self.seed),
        }


def from_dict(values: Mapping[str, Any]) -> Initializer:
    """Return the initializer that `Initializer.to_dict` described."""
    a, b, seed = values["a"], values["b"], values["seed"]
    kinds: dict[str, Callable[[], Initializer]] = {
        "zeros": Zeros,
        "constant": lambda: Constant(a),
        "uniform": lambda: Uniform(a, seed),
        "normal": lambda: Normal(a, b, seed),
        "truncated_normal": lambda: TruncatedNormal(a, b, seed),
    }
    return kinds[values["kind"]]()
