"""From the features of a request to keys and numbers, as training saw them.

A request is checked here and nowhere else. What a value becomes is what `embery.data.convert` makes
of the same value in a file: the same hash, transform and default.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embery.data.block import F32, I64, U64, Bags, Block, offsets_of
from embery.data.keys import keys_of
from embery.data.schema import Dense, Schema, Sparse, SparseList
from embery.errors import InvalidArgument
from embery.serving.scorer import Features, Input, Values

LIST_LENGTH_MAX = 1024


class RequestReader:
    """Reads requests for one schema. Thread-safe.

    Args:
        schema: of the training data; its labels are not asked for.
        list_length_max: keys of a list, at most, where the schema names no limit.
    """

    def __init__(self, schema: Schema, *, list_length_max: int = LIST_LENGTH_MAX) -> None:
        self._schema = schema
        self.inputs = tuple(_inputs_of(schema, list_length_max))
        self._by_name = {entry.name: entry for entry in self.inputs}

    def read(self, features: Features) -> Block:
        """Return the samples of a request; see `Scorer.read`."""
        self._require_names(features)
        first = self.inputs[0]
        samples = _samples_of(first, features[first.name])
        dense = np.empty((samples, len(self._schema.dense)), np.float32)
        for j, column in enumerate(self._schema.dense):
            entry = self._by_name[column.name]
            dense[:, j] = _numbers(entry, features[column.name], column, samples)
        bags = tuple(self._bags(column, features, samples) for column in self._schema.sparse)
        return Block(np.empty((samples, 0), np.float32), dense, bags)

    def _require_names(self, features: Features) -> None:
        if features.keys() == self._by_name.keys():
            return
        for name in self._by_name:
            if name not in features:
                raise InvalidArgument(
                    f"feature {name!r} is missing; the model reads {list(self._by_name)}, "
                    f"got {list(features)}"
                )
        unknown = next(name for name in features if name not in self._by_name)
        raise InvalidArgument(
            f"feature {unknown!r} is not known; the model reads {list(self._by_name)}"
        )

    def _bags(self, column: Sparse, features: Features, samples: int) -> Bags:
        entry = self._by_name[column.key]
        values, offsets = _flat(entry, features[column.key], samples)
        keys = _keys(entry, values, column.hash_seed)
        if not isinstance(column, SparseList) or column.weights is None:
            return Bags(keys, offsets)
        weigher = self._by_name[column.weights]
        weights, own_offsets = _flat(weigher, features[column.weights], samples)
        alike = (
            len(weights) == len(keys)
            if own_offsets is None or offsets is None
            else np.array_equal(own_offsets, offsets)
        )
        if not alike:
            raise InvalidArgument(
                f"feature {weigher.name!r}: its lists are not as long as those of "
                f"{entry.name!r}, whose keys they weigh"
            )
        return Bags(keys, offsets, _finite(weigher, weights))


def _inputs_of(schema: Schema, list_length_max: int) -> Iterator[Input]:
    for number in schema.dense:
        yield Input(number.name, "number")
    for column in schema.sparse:
        length_max = 1
        if isinstance(column, SparseList):
            length_max = column.max_length or list_length_max
        yield Input(column.key, "key", length_max=length_max)
        if isinstance(column, SparseList) and column.weights is not None:
            yield Input(column.weights, "weight", length_max=length_max, weighs=column.key)


def _samples_of(entry: Input, values: Values) -> int:
    if isinstance(values, tuple):
        return int(np.size(values[1]))
    if values.ndim == 0:
        raise _wrong_shape(entry, values, "(samples,)")
    return len(values)


def _flat(entry: Input, given: Values, samples: int) -> tuple[NDArray[Any], I64 | None]:
    """Return the values one after the other, and offsets unless every sample has one."""
    if isinstance(given, tuple):
        values, lengths = given
        if values.ndim != 1 or lengths.ndim != 1 or lengths.dtype.kind not in "iu":
            raise InvalidArgument(
                f"feature {entry.name!r}: expected values (N,) with integer lengths "
                f"({samples},), got shapes {values.shape} and {lengths.shape}, lengths "
                f"{lengths.dtype}"
            )
        _require_samples(entry, len(lengths), samples)
        _require_lengths(entry, lengths, len(values))
        return values, offsets_of(lengths)
    if given.ndim not in (1, 2):
        raise _wrong_shape(entry, given, f"({samples},) or ({samples}, length)")
    _require_samples(entry, len(given), samples)
    if given.ndim == 1 or given.shape[1] == 1:
        return given.reshape(-1), None
    length = given.shape[1]
    if length > entry.length_max:
        raise _too_long(entry, length, 0)
    return given.reshape(-1), np.arange(samples + 1, dtype=np.int64) * length


def _require_samples(entry: Input, got: int, samples: int) -> None:
    if got != samples:
        raise InvalidArgument(
            f"feature {entry.name!r}: expected {samples} samples, as many as the first feature "
            f"has, got {got}"
        )


def _require_lengths(entry: Input, lengths: NDArray[Any], values: int) -> None:
    if len(lengths) and int(lengths.min()) < 0:
        raise InvalidArgument(f"feature {entry.name!r}: a length is negative")
    if len(lengths) and int(lengths.max()) > entry.length_max:
        raise _too_long(entry, int(lengths.max()), int(lengths.argmax()))
    if int(lengths.sum()) != values:
        raise InvalidArgument(
            f"feature {entry.name!r}: the lengths add up to {int(lengths.sum())}, but there are "
            f"{values} values"
        )


def _too_long(entry: Input, length: int, sample: int) -> InvalidArgument:
    return InvalidArgument(
        f"feature {entry.name!r}, sample {sample}: expected at most {entry.length_max} values, "
        f"got {length}; cut the list"
    )


def _wrong_shape(entry: Input, values: NDArray[Any], expected: str) -> InvalidArgument:
    return InvalidArgument(
        f"feature {entry.name!r}: expected an array of shape {expected}, got {values.shape}"
    )


def _wrong_type(entry: Input, values: NDArray[Any], expected: str) -> InvalidArgument:
    return InvalidArgument(
        f"feature {entry.name!r}: expected {expected}, got an array of {values.dtype}"
    )


def _keys(entry: Input, values: NDArray[Any], seed: int) -> U64:
    kind = values.dtype.kind
    if kind == "u":
        return values.astype(np.uint64, copy=False)
    if kind in "ib":
        return values.astype(np.int64, copy=False).view(np.uint64)
    if kind not in "OUS":
        raise _wrong_type(entry, values, "integers or strings")
    try:
        # Bytes and text alike, in one array: text is hashed as its UTF-8.
        raw = [v.encode() if isinstance(v, str) else v for v in values.tolist()]
        return keys_of(pa.array(raw, pa.large_binary()), seed)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise InvalidArgument(
            f"feature {entry.name!r}: expected integers or strings, got {error}"
        ) from error


def _numbers(entry: Input, given: Values, column: Dense, samples: int) -> F32:
    values, offsets = _flat(entry, given, samples)
    if offsets is not None:
        raise InvalidArgument(f"feature {entry.name!r}: expected one number a sample, got lists")
    if values.dtype.kind not in "iufb":
        raise _wrong_type(entry, values, "numbers")
    missing = np.isnan(values) if values.dtype.kind == "f" else None
    if column.transform == "log1p":
        values = np.log1p(np.maximum(values.astype(np.float64), 0.0))
    if missing is not None and missing.any():
        values = np.where(missing, column.default, values)
    return _finite(entry, values)


def _finite(entry: Input, values: NDArray[Any]) -> F32:
    if values.dtype.kind not in "iufb":
        raise _wrong_type(entry, values, "numbers")
    # What does not fit becomes infinite, which is reported here.
    with np.errstate(over="ignore"):
        numbers: F32 = values.astype(np.float32, copy=False)
    if not np.isfinite(numbers).all():
        wrong = int(np.argmin(np.isfinite(numbers)))
        raise InvalidArgument(
            f"feature {entry.name!r}, value {wrong}: expected a finite float32, got {values[wrong]}"
        )
    return numbers
