"""Tensors of the Open Inference Protocol, and the features that they stand for.

A feature of one value a sample is one tensor, (B,) or (B, 1). One of lists is the tensor of its
values, (N,), with a tensor `NAME.lengths`, (B,), of how many each sample has; or one tensor (B, L)
where all samples have as many. Weights have the lengths of the keys that they weigh.

Shape letters: B samples of a request, N values of a feature in all of them, L in each.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from embery.errors import InvalidArgument
from embery.serving.scorer import Features, Input, Values

Array: TypeAlias = NDArray[Any]

LENGTHS_SUFFIX = ".lengths"
BYTES = "BYTES"
DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    BYTES: np.dtype(np.object_),
}
# Data type of an input in the metadata of a model; others of its kind are taken as well.
_DATATYPES = {"key": "INT64", "number": "FP32", "weight": "FP32"}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor that a model takes or gives; -1 where the size is the caller's choice."""

    name: str
    datatype: str
    shape: tuple[int, ...]


def tensors_of(inputs: Sequence[Input]) -> list[TensorInfo]:
    """Return the tensors that stand for the inputs of a model."""
    found = []
    for taken in inputs:
        found.append(TensorInfo(taken.name, _DATATYPES[taken.kind], (-1,)))
        if taken.kind == "key" and taken.length_max > 1:
            found.append(TensorInfo(taken.name + LENGTHS_SUFFIX, "INT32", (-1,)))
    return found


def features_of(inputs: Sequence[Input], tensors: Mapping[str, Array]) -> Features:
    """Return the features that tensors stand for; whether they are right is for the scorer."""
    features: dict[str, Values] = dict(tensors)
    for taken in inputs:
        lengths = tensors.get((taken.weighs or taken.name) + LENGTHS_SUFFIX)
        if taken.kind != "number" and lengths is not None and taken.name in tensors:
            features[taken.name] = (tensors[taken.name], lengths)
            features.pop(taken.name + LENGTHS_SUFFIX, None)
    return features


def tensor_of_list(name: str, datatype: str, shape: Sequence[int], values: Any) -> Array:
    """Return the tensor whose elements a list holds, nested by rows or flat.

    Raises:
        InvalidArgument: naming the tensor: values that its data type has not, or not so many as
            its shape says.
    """
    dtype = _dtype_of(name, datatype)
    try:
        found = np.asarray(values, dtype=dtype if datatype == BYTES else None)
        if datatype == "UINT64" and found.dtype.kind == "f":
            # NumPy takes integers of which one is above 2**63 for floats.
            found = _integers_of(np.asarray(values, dtype=np.object_))
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidArgument(f"input {name!r}: expected {datatype} values: {error}") from None
    if found.size and not _holds(dtype, found):
        raise InvalidArgument(
            f"input {name!r}: expected {datatype} values, got some that it cannot hold"
        )
    return _shaped(name, found.astype(dtype, copy=False), shape)


def tensor_of_bytes(name: str, datatype: str, shape: Sequence[int], raw: Any) -> Array:
    """Return the tensor whose elements lie in `raw`, without a copy where they are numbers.

    Raises:
        InvalidArgument: naming the tensor: not so many bytes as its shape says.
    """
    dtype = _dtype_of(name, datatype)
    if datatype == BYTES:
        return _shaped(name, _strings_of(name, raw), shape)
    if len(raw) % dtype.itemsize:
        raise InvalidArgument(
            f"input {name!r}: {len(raw)} bytes are no whole number of {datatype} values"
        )
    return _shaped(name, np.frombuffer(raw, dtype), shape)


def _dtype_of(name: str, datatype: str) -> np.dtype[Any]:
    dtype = DTYPES.get(datatype)
    if dtype is None:
        raise InvalidArgument(
            f"input {name!r}: the data type must be one of {', '.join(DTYPES)}, got {datatype!r}"
        )
    return dtype


def _integers_of(found: Array) -> Array:
    """Return Python integers as uint64; unchanged if there is anything else among them."""
    return found.astype(np.uint64) if all(type(one) is int for one in found.flat) else found


def _holds(dtype: np.dtype[Any], found: Array) -> bool:
    """Return whether a data type has every one of the values."""
    if dtype.kind == "O":
        return all(isinstance(value, str | bytes) for value in found.flat)
    if dtype.kind in "iu":
        if found.dtype.kind not in "iu":
            return False
        limits = np.iinfo(dtype)
        return int(found.min()) >= limits.min and int(found.max()) <= limits.max
    return found.dtype.kind in ("b" if dtype.kind == "b" else "iuf")


def _shaped(name: str, found: Array, shape: Sequence[int]) -> Array:
    wanted = tuple(shape)
    if found.shape == wanted:
        return found
    if math.prod(wanted) != found.size or any(size < 0 for size in wanted):
        raise InvalidArgument(
            f"input {name!r}: {found.size} values do not make the shape {list(wanted)}"
        )
    return found.reshape(wanted)


def _strings_of(name: str, raw: Any) -> Array:
    """Return byte strings, each of which its length precedes, as 4 little-endian bytes."""
    found: list[bytes] = []
    view = memoryview(raw)
    at = 0
    while at < len(view):
        begin = at + 4
        size = struct.unpack_from("<I", view, at)[0] if begin <= len(view) else 0
        at = begin + size
        if at > len(view):
            raise InvalidArgument(f"input {name!r}: its BYTES end within an element")
        found.append(bytes(view[begin:at]))
    strings = np.empty(len(found), np.object_)
    strings[:] = found
    return strings
