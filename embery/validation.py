"""Checks that configuration classes share; each raises `InvalidArgument` naming the field."""

from __future__ import annotations

import math
import numbers

from embery.errors import InvalidArgument

FLOAT32_MAX = 3.4028234663852886e38


def require_finite(field: str, value: object) -> None:
    """Raise unless `value` is a finite real number, and stays finite as a float32."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise InvalidArgument(f"{field} must be a finite number, got {value!r}")
    if abs(float(value)) > FLOAT32_MAX:
        raise InvalidArgument(f"{field} must be finite as a float32, got {value!r}")


def require_range(
    field: str,
    value: object,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    low_open: bool = False,
    high_open: bool = False,
) -> None:
    """Raise unless `value` is a finite number between `low` and `high`."""
    require_finite(field, value)
    assert isinstance(value, numbers.Real)
    number = float(value)
    below = number <= low if low_open else number < low
    above = number >= high if high_open else number > high
    if below or above:
        left, right = "(" if low_open else "[", ")" if high_open else "]"
        raise InvalidArgument(f"{field} must lie in {left}{low}, {high}{right}, got {value!r}")


def require_int(field: str, value: object, *, low: int, high: int) -> None:
    """Raise unless `value` is an integer in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise InvalidArgument(f"{field} must be an integer, got {value!r}")
    if not low <= int(value) <= high:
        raise InvalidArgument(f"{field} must lie in [{low}, {high}], got {value}")


def require_seed(field: str, value: object) -> None:
    """Raise unless `value` is an unsigned 64-bit integer."""
    require_int(field, value, low=0, high=2**64 - 1)
