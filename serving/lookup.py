"""Rows of a bundle: looking keys up, and pooling what is found. Needs no torch.

Shape letters: B samples, N keys, D columns of a row.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from embery._native import FrozenLookup, FrozenTable
from embery.arrays import as_keys
from embery.data.block import F32, U64
from embery.errors import CheckpointCorrupt, InvalidArgument
from embery.serving.manifest import TableEntry
from embery.serving.table_file import TableLayout

Pooling = Literal["sum", "mean", "sqrtn"]


class BundleTable:
    """The rows of one table, mapped from its file. Thread-safe.

    All processes that open a bundle share one copy of its pages. Rows of any storage type are
    given as float32; a key that is absent reads as zeros.

    Args:
        path: of the file.
        entry: what the manifest says of it.
        base: the table that the file holds changes of; None if it holds all rows.
    """

    def __init__(self, path: str, entry: TableEntry, base: BundleTable | None = None) -> None:
        self.native: FrozenTable = FrozenTable(path, None if base is None else base.native)
        self._path = path
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

    def keys(self) -> U64:
        """Return the keys of the rows in the file, uint64 (rows,), where they lie."""
        layout = TableLayout(self.name, self.dtype, self.dim, self.rows)
        if not self.rows:
            return np.empty(0, np.uint64)
        return np.memmap(self._path, np.uint64, "r", layout.keys_begin, (self.rows,))

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
