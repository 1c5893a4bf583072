"""From Arrow record batches to blocks, a column at a time and without touching single values.

Every error names where the data came from, the column, and the row where there is one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from embery.data.block import F32, I64, Bags, Block, offsets_of
from embery.data.keys import Mask, fixed_width, keys_of, valid_of
from embery.data.schema import Dense, Label, Schema, Sparse, SparseList
from embery.errors import InvalidArgument


def block_of(records: pa.RecordBatch, schema: Schema, where: str, *, first_row: int = 0) -> Block:
    """Return the rows of `records`, which have the columns of `schema`, as a block.

    Args:
        records: n rows.
        schema: the columns to take, already checked against the Arrow schema.
        where: name of the source of the rows, for messages.
        first_row: number of the first row in the source, for messages.

    Raises:
        InvalidArgument: a null or NaN label, a dense value or weight that is not finite, weights
            that do not fit their keys.
    """
    n = records.num_rows
    label = np.empty((n, len(schema.labels)), np.float32)
    dense = np.empty((n, len(schema.dense)), np.float32)
    place = _Place(where, first_row)
    for j, column in enumerate(schema.labels):
        label[:, j] = _label(records.column(column.name), column, place)
    for j, number in enumerate(schema.dense):
        dense[:, j] = _dense(records.column(number.name), number, place)
    return Block(label, dense, tuple(_bags(records, column, place) for column in schema.sparse))


class _Place:
    """Where a record batch begins in its source: turns an index into a message."""

    def __init__(self, where: str, first_row: int) -> None:
        self._where = where
        self._first_row = first_row

    def error(self, column: str, wrong: Mask, what: str) -> InvalidArgument:
        """Return an error about the first row of `wrong` that is True."""
        row = self._first_row + int(np.argmax(wrong))
        return InvalidArgument(f"{self._where}: column {column!r}, row {row}: {what}")


def _label(array: pa.Array, column: Label, place: _Place) -> F32:
    valid = valid_of(array)
    if valid is not None:
        raise place.error(column.name, ~valid, "a label must not be null")
    label = _to_f32(_numbers(array))
    if not np.isfinite(label).all():
        raise place.error(column.name, ~np.isfinite(label), "a label must be a finite float32")
    return label


def _dense(array: pa.Array, column: Dense, place: _Place) -> F32:
    numbers = _numbers(array)
    if column.transform == "log1p":
        numbers = np.log1p(np.maximum(numbers.astype(np.float64), 0.0))
    dense = _to_f32(numbers)
    valid = valid_of(array)
    if valid is not None:
        dense = np.where(valid, dense, np.float32(column.default))
    if not np.isfinite(dense).all():
        what = "not a finite float32; store a missing value as null"
        raise place.error(column.name, ~np.isfinite(dense), what)
    return dense


def _bags(records: pa.RecordBatch, column: Sparse, place: _Place) -> Bags:
    array = records.column(column.name)
    if isinstance(column, SparseList):
        weights = None if column.weights is None else records.column(column.weights)
        return _list_bags(array, weights, column, place)
    keys = keys_of(array, column.hash_seed)
    valid = valid_of(array)
    if valid is None:
        return Bags(keys)
    return Bags(keys[valid], offsets_of(valid.astype(np.int64)))


def _list_bags(
    array: pa.Array, weight_lists: pa.Array | None, column: SparseList, place: _Place
) -> Bags:
    lengths = _lengths(array, column.name, place)
    weights = None
    if weight_lists is not None:
        weights = _weights(weight_lists, lengths, column, place)
    elements = array.flatten()
    bags = Bags(keys_of(elements, column.hash_seed), offsets_of(lengths), weights)
    valid = valid_of(elements)
    if valid is not None:
        bags = _select(bags, valid)
    if column.max_length is not None:
        begins = offsets_of(bags.lengths())[:-1]
        rank = np.arange(len(bags.values)) - np.repeat(begins, bags.lengths())
        if (rank >= column.max_length).any():
            bags = _select(bags, rank < column.max_length)
    if bags.weights is not None and not np.isfinite(bags.weights).all():
        rows = np.repeat(np.arange(len(lengths)), bags.lengths())
        wrong = np.isin(np.arange(len(lengths)), rows[~np.isfinite(bags.weights)])
        what = "a weight must be a finite float32, not null"
        raise place.error(str(column.weights), wrong, what)
    return bags


def _select(bags: Bags, keep: Mask) -> Bags:
    """Drop the elements where `keep` is False from the lists."""
    kept_before = offsets_of(keep.astype(np.int64))
    weights = None if bags.weights is None else bags.weights[keep]
    return Bags(bags.values[keep], kept_before[bags.offsets], weights)


def _weights(lists: pa.Array, lengths: I64, column: SparseList, place: _Place) -> F32:
    """Return the weight of each element, float32; a null is NaN."""
    wrong = _lengths(lists, str(column.weights), place) != lengths
    if wrong.any():
        what = f"the list is not as long as the list of column {column.name!r}"
        raise place.error(str(column.weights), wrong, what)
    elements = lists.flatten()
    weights = _to_f32(_numbers(elements))
    valid = valid_of(elements)
    return weights if valid is None else np.where(valid, weights, np.float32(np.nan))


def _lengths(array: pa.Array, name: str, place: _Place) -> I64:
    """Return the length of each list, 0 for a null, int64 (n,)."""
    lengths: I64 = fixed_width(pc.list_value_length(array).cast(pa.int64()))
    valid = valid_of(array)
    if valid is not None:
        lengths = np.where(valid, lengths, 0)
    if (lengths < 0).any():
        raise place.error(name, lengths < 0, "a list has a negative length")
    return lengths


def _numbers(array: pa.Array) -> NDArray[Any]:
    """Return integers, booleans or floating-point numbers as numpy; a null's value is undefined."""
    return fixed_width(array.cast(pa.uint8()) if pa.types.is_boolean(array.type) else array)


def _to_f32(numbers: NDArray[Any]) -> F32:
    # What does not fit becomes infinite, which the caller reports with its place.
    with np.errstate(over="ignore", invalid="ignore"):
        return numbers.astype(np.float32, copy=False)
