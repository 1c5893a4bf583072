"""Names of the inputs and the output of a dense program."""

from __future__ import annotations

DENSE = "dense"


def pooled_name(collection: int) -> str:
    """Return the input that is what a pooling collection returns, float32 (B, sum of D)."""
    return f"pooled_{collection}"


def rows_name(collection: int, feature: int) -> str:
    """Return the input that is the rows of a feature that is not pooled.

    float32 (B, D) for one key a sample; (B, L, D) for lists, zeros behind the shorter ones.
    """
    return f"rows_{collection}_{feature}"


def lengths_name(collection: int, feature: int) -> str:
    """Return the input that says how many keys each sample has, int64 (B,)."""
    return f"lengths_{collection}_{feature}"
