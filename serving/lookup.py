"""Rows of a bundle: looking keys up, and pooling what is found. Needs no torch.

Shape letters: B samples, N keys, D columns of a row.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from embery._native import FrozenLookup, FrozenTable
from embery.arrays import as_keys
from embery.data.block import F32
from embery.errors import CheckpointCorrupt, InvalidArgument
from embery.serving.manifest import TableEntry

Pooling = Literal["sum", "mean", "sqrtn"]


class BundleTable:
    """The rows of one table, mapped from its file. Thread-safe.

    All processes that open a bundle share one copy of its pages. Rows of any storage type are
    given as float32; a key that is absent reads as zeros.
    """

    def __init__(self, path: str, entry: TableEntry) -> None:
        self.native = FrozenTable(path)
        found = (self.native.dtype, self.native.dim, self.native.rows)
        if found != (entry.dtype, entry.dim, entry.rows):
            raise CheckpointCorrupt(
                f"{path}: expected {entry.rows} rows of {entry.dtype} and dim {entry.dim}, got "
                f"{found[2]} rows of {found[0]} and dim {found[1]}; the file is damaged"
            )
        self.name, self.dim, self.dtype, self.rows = entry.name, entry.dim, entry.dtype, entry.rows
        self._lookups = {
            pooling: FrozenLookup([self.native], [(0, pooling)])
            for pooling in ("sum", "mean", "sqrtn")
        }

    def lookup(self, keys: Any) -> F32:
        """Return the row of each key.

        Args:
            keys: uint64 or int64, (N,).

        Returns:
            float32, (N, D).
        """
        return self.lookup_found(keys)[0]

    def lookup_found(self, keys: Any) -> tuple[F32, int]:
        """Return the row of each key, and how many of the keys there are."""
        wanted = as_keys(keys, "keys")
        rows = np.empty((len(wanted), self.dim), np.float32)
        return rows, self._lookups["sum"].gather(0, wanted, rows)

    def pool(
        self, keys: Any, lengths: Any, *, weights: Any = None, pooling: Pooling = "sum"
    ) -> F32:
        """Return one vector a sample, as `em.Feature` defines the poolings.

        Args:
            keys: uint64 or int64, (N,), sample by sample.
            lengths: int64, (B,), adding up to N.
            weights: float32, (N,), or None for ones.
            pooling: "sum", "mean" or "sqrtn".

        Returns:
            float32, (B, D); zeros for a sample without keys.

        Raises:
            InvalidArgument: the lengths or weights do not fit.
        """
        if pooling not in self._lookups:
            raise InvalidArgument(f"pooling must be one of {list(self._lookups)}, got {pooling!r}")
        counts = np.ascontiguousarray(lengths, np.int64)
        out = np.empty((len(counts), self.dim), np.float32)
        factors = None if weights is None else np.ascontiguousarray(weights, np.float32)
        self._lookups[pooling].pool(as_keys(keys, "keys"), counts, factors, len(counts), out)
        return out
