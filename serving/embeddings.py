"""What the embedding modules of a model return, from the tables of a bundle. Needs no torch.

Shape letters: B samples, N keys, D columns of a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embery._native import FrozenLookup
from embery.data.block import F32, I64, U64, Bags, Block
from embery.data.schema import Schema, SparseList
from embery.serving.lookup import BundleTable
from embery.serving.manifest import Collection
from embery.serving.names import DENSE, lengths_name, pooled_name, rows_name

Feeds = dict[str, NDArray[Any]]
# Lists are padded to this at least: a program for lists of any length is traced with two.
LIST_LENGTH_MIN = 2


class Embeddings:
    """Turns samples into the inputs of the dense program. Thread-safe.

    Args:
        schema: of the samples.
        collections: of the model.
        tables: by name.
    """

    def __init__(
        self,
        schema: Schema,
        collections: Sequence[Collection],
        tables: Mapping[str, BundleTable],
    ) -> None:
        positions = {key: position for position, key in enumerate(schema.keys)}
        lists = {column.key for column in schema.sparse if isinstance(column, SparseList)}
        self._has_dense = bool(schema.dense)
        self._collections = [
            (c.pooled, _Collection(c, tables, positions, lists)) for c in collections
        ]

    def feeds(self, block: Block) -> Feeds:
        """Return the inputs of the program by name: numbers, and what the embeddings come to."""
        feeds: Feeds = {DENSE: block.dense} if self._has_dense else {}
        for i, (pooled, collection) in enumerate(self._collections):
            if pooled:
                feeds[pooled_name(i)] = collection.pooled(block.sparse, len(block))
                continue
            for j, (rows, lengths) in enumerate(collection.rows(block.sparse)):
                feeds[rows_name(i, j)], feeds[lengths_name(i, j)] = rows, lengths
        return feeds


class _Collection:
    """What one embedding module returns.

    `positions` are those of features in the bags of a block; `lists` those with lists of keys.
    """

    def __init__(
        self,
        collection: Collection,
        tables: Mapping[str, BundleTable],
        positions: Mapping[str, int],
        lists: Set[str],
    ) -> None:
        features = collection.features
        names = list(dict.fromkeys(feature.table for feature in features))
        self._lookup = FrozenLookup(
            [tables[name].native for name in names],
            [(names.index(f.table), f.pooling or "sum") for f in features],
        )
        self._positions = [positions[feature.name] for feature in features]
        self._are_lists = [feature.name in lists for feature in features]
        self._dims = [tables[feature.table].dim for feature in features]

    def pooled(self, bags: Sequence[Bags], samples: int) -> F32:
        """Return the pooled rows of all features side by side, float32 (B, sum of D)."""
        mine = [bags[position] for position in self._positions]
        out = np.empty((samples, self._lookup.columns), np.float32)
        keys, lengths, weights = _join(mine)
        self._lookup.pool(keys, lengths, weights, samples, out)
        return out

    def rows(self, bags: Sequence[Bags]) -> list[tuple[F32, I64]]:
        """Return for each feature the rows of its keys, padded, and lengths (B,)."""
        found = []
        for j, (position, dim) in enumerate(zip(self._positions, self._dims, strict=True)):
            keys, lengths = np.ascontiguousarray(bags[position].values), bags[position].lengths()
            rows = np.empty((len(keys), dim), np.float32)
            self._lookup.gather(j, keys, rows)
            found.append((_padded(rows, lengths, self._are_lists[j]), lengths))
        return found


def _padded(rows: F32, lengths: I64, are_lists: bool) -> F32:
    """Return rows (N, D) as (B, L, D), or as (B, D) where there is at most one a sample."""
    width = max(LIST_LENGTH_MIN, int(lengths.max(initial=0))) if are_lists else 1
    padded = np.zeros((len(lengths), width, rows.shape[1]), np.float32)
    padded[np.arange(width) < lengths[:, None]] = rows
    return padded if are_lists else padded[:, 0]


def _join(bags: Sequence[Bags]) -> tuple[U64, I64, F32 | None]:
    """Return keys, lengths and weights of all features, one after the other."""
    keys = np.concatenate([b.values for b in bags])
    lengths: NDArray[np.int64]
    if all(b.offsets is None for b in bags):
        lengths = np.ones(len(keys), np.int64)
    else:
        lengths = np.concatenate([b.lengths() for b in bags])
    if all(b.weights is None for b in bags):
        return keys, lengths, None
    weights = [np.ones(len(b.values), np.float32) if b.weights is None else b.weights for b in bags]
    return keys, lengths, np.concatenate(weights)
