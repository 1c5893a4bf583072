"""Blocks: some rows of a data set as NumPy columns, between a file and the batches.

Shape letters: n rows, L labels, D dense features, m values of a sparse feature in all rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Bags:
    """The keys of one sparse feature, row after row.

    Args:
        values: uint64 (m,).
        offsets: int64 (n + 1,) from 0 to m: row i has values[offsets[i]:offsets[i + 1]]; None where
            every row has exactly one.
        weights: float32 (m,), or None.
    """

    values: U64
    offsets: I64 | None = None
    weights: F32 | None = None

    def lengths(self) -> I64:
        """Return the number of values of each row, int64 (n,)."""
        if self.offsets is None:
            return np.ones(len(self.values), np.int64)
        return np.diff(self.offsets)

    def slice(self, start: int, stop: int) -> Bags:
        """Return rows start..stop-1; values and weights are views."""
        if self.offsets is None:
            first, last, offsets = start, stop, None
        else:
            offsets = self.offsets[start : stop + 1]
            first, last = int(offsets[0]), int(offsets[-1])
            offsets = offsets - first
        weights = None if self.weights is None else self.weights[first:last]
        return Bags(self.values[first:last], offsets, weights)

    def take(self, rows: I64) -> Bags:
        """Return the given rows in the given order."""
        if self.offsets is None:
            index, offsets = rows, None
        else:
            begins = self.offsets[rows]
            offsets = offsets_of(self.offsets[rows + 1] - begins)
            # Value j of the result is value j - offsets[row] of its row.
            shift = np.repeat(begins - offsets[:-1], np.diff(offsets))
            index = shift + np.arange(offsets[-1])
        weights = None if self.weights is None else self.weights[index]
        return Bags(self.values[index], offsets, weights)


@dataclass(frozen=True, slots=True)
class Block:
    """Rows as columns.

    Args:
        label: float32 (n, L).
        dense: float32 (n, D).
        sparse: the bags of every feature, each of n rows.
    """

    label: F32
    dense: F32
    sparse: tuple[Bags, ...]

    def __len__(self) -> int:
        return len(self.label)

    def slice(self, start: int, stop: int) -> Block:
        """Return rows start..stop-1 as views."""
        bags = tuple(b.slice(start, stop) for b in self.sparse)
        return Block(self.label[start:stop], self.dense[start:stop], bags)

    def take(self, rows: I64) -> Block:
        """Return the given rows in the given order."""
        bags = tuple(b.take(rows) for b in self.sparse)
        return Block(self.label[rows], self.dense[rows], bags)


def offsets_of(lengths: NDArray[np.integer]) -> I64:
    """Return where each row begins, and the end: int64 (n + 1,)."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def concatenate(blocks: Sequence[Block]) -> Block:
    """Return the rows of all blocks, of which there is at least one, in order."""
    if len(blocks) == 1:
        return blocks[0]
    return Block(
        np.concatenate([b.label for b in blocks]),
        np.concatenate([b.dense for b in blocks]),
        tuple(_join(column) for column in zip(*(b.sparse for b in blocks), strict=True)),
    )


def _join(parts: Sequence[Bags]) -> Bags:
    values = np.concatenate([p.values for p in parts])
    offsets = None
    if any(p.offsets is not None for p in parts):
        offsets = offsets_of(np.concatenate([p.lengths() for p in parts]))
    weights = [p.weights for p in parts if p.weights is not None]
    return Bags(values, offsets, np.concatenate(weights) if weights else None)
