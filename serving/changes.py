"""The rows of a delta: those of a checkpoint in which it differs from a bundle.

A delta holds all that changed since its base, not since the delta before it: none depends on
another, so that there is no gap to fall into, and any of them may be served, or removed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from embery.data.block import U64
from embery.errors import InvalidArgument
from embery.rows import decode_values
from embery.serving.lookup import BundleTable
from embery.serving.rows import TableRows, Watch
from embery.serving.table_file import Rows, TableLayout

_CHUNK = 1 << 16


class ChangedRows:
    """The rows that a base has otherwise or not at all, and zeros for those that it alone has.

    A row that the base has not and that is all zeros is left out: an absent row reads as zeros.
    Memory: a byte a row of both, 8 bytes for each that was removed.

    Args:
        rows: of the checkpoint, filtered, in the storage type of the base.
        base: the table of the base.

    Raises:
        InvalidArgument: the storage types or dims differ.
    """

    def __init__(self, rows: TableRows, base: BundleTable) -> None:
        self._rows = rows
        self._base = base
        self._whole = rows.layout()
        if (self._whole.dtype, self._whole.dim) != (base.dtype, base.dim):
            raise InvalidArgument(
                f"table {base.name!r}: the base has rows of {base.dtype} and dim {base.dim}, got "
                f"{self._whole.dtype} and dim {self._whole.dim}; export a whole bundle"
            )
        self._masks, self._removed = self._compare()

    def layout(self) -> TableLayout:
        """Return the layout of the table's file."""
        count = sum(int(mask.sum()) for mask in self._masks) + len(self._removed)
        return TableLayout(self._whole.name, self._whole.dtype, self._whole.dim, count)

    def passes(self, watch: Watch, progress: Callable[[int], None]) -> Iterator[Rows]:
        """Yield the rows that changed, showing all of them to `watch`; then those removed."""
        passing = self._rows.passes(watch, progress)
        for (keys, values), mask in zip(passing, self._masks, strict=True):
            yield keys[mask], values[mask]
        for begin in range(0, len(self._removed), _CHUNK):
            keys = self._removed[begin : begin + _CHUNK]
            yield keys, np.zeros((len(keys), self._whole.row_bytes), np.uint8)

    def _compare(self) -> tuple[list[NDArray[np.bool_]], U64]:
        """Return which rows changed, pass by pass, and the keys of those that are gone."""
        dtype, dim = self._whole.dtype, self._whole.dim
        is_left = np.zeros(self._base.rows, np.bool_)
        nobody = Watch(np.empty(0, np.uint64), dtype, dim)
        masks = []
        for keys, values in self._rows.passes(nobody, lambda count: None):
            ours = np.ascontiguousarray(decode_values(dtype, dim, values), np.float32)
            theirs = self._base.lookup(keys)
            # Bit by bit, so that NaN is like itself.
            masks.append((ours.view(np.uint32) != theirs.view(np.uint32)).any(1))
            places = self._base.native.positions(keys)
            is_left[places[places >= 0]] = True
        gone = np.flatnonzero(~is_left)
        return masks, np.asarray(self._base.keys()[gone])
