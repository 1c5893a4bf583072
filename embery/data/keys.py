"""From Arrow columns to keys.

Integers are keys as they are: the key is the value's 64-bit pattern, signed values sign-extended.
Strings and binary values become MurmurHash3 x64-128 with the column's seed, low 64 bits, as PyPI
`mmh3.hash64(value, seed, signed=False)[0]` gives. Values are never touched one by one in Python:
the native module works on Arrow's buffers, and a dictionary is hashed once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from embery import _native
from embery.errors import InvalidArgument

Mask = NDArray[np.bool_]
U64 = NDArray[np.uint64]
SEED_MAX = 2**32 - 1

# Layouts of the same bytes that the native code does not read, and the ones it does.
_PLAIN = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}


def _is_bytes(kind: pa.DataType) -> bool:
    return (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
        or kind in _PLAIN
    )


def is_key_type(kind: pa.DataType) -> bool:
    """Say whether values of the Arrow type `kind` can become keys."""
    if pa.types.is_dictionary(kind):
        return is_key_type(kind.value_type)
    return pa.types.is_integer(kind) or pa.types.is_boolean(kind) or _is_bytes(kind)


def keys_of(array: pa.Array | pa.ChunkedArray, seed: int = 0) -> U64:
    """Return the keys of the values of an Arrow array.

    Args:
        array: integers, booleans, strings, binary values, or a dictionary of such, of length n;
            sliced or chunked as it may be.
        seed: seed of the string hash, 0 <= seed < 2**32; integers do not use it.

    Returns:
        uint64, shape (n,). A null has no key: what stands in its place is undefined. `Schema` turns
        nulls into missing values (an empty bag, or no element of a list).

    Raises:
        InvalidArgument: values of this type have no keys.
    """
    if isinstance(array, pa.ChunkedArray):
        chunks = [keys_of(chunk, seed) for chunk in array.chunks]
        return np.concatenate(chunks) if chunks else np.empty(0, np.uint64)
    kind = array.type
    if pa.types.is_dictionary(kind):
        if array.null_count == len(array):
            return np.zeros(len(array), np.uint64)
        found: U64 = keys_of(array.dictionary, seed)[_indices(array)]
        return found
    if pa.types.is_boolean(kind):
        return keys_of(array.cast(pa.uint8()), seed)
    if pa.types.is_integer(kind):
        wide = np.int64 if pa.types.is_signed_integer(kind) else np.uint64
        keys: U64 = fixed_width(array).astype(wide, copy=False).view(np.uint64)
        return keys
    if _is_bytes(kind):
        return _native.hash_strings(*_string_buffers(array), seed=seed)
    raise InvalidArgument(
        f"values of Arrow type {kind} have no keys; expected integers, strings, binary values or a "
        "dictionary of them"
    )


def keys_of_hex(array: pa.Array) -> U64:
    """Return the values of strings of 1 to 16 hexadecimal digits, uint64 (n,).

    A null's value is undefined.

    Raises:
        InvalidArgument: a string is something else.
    """
    return _native.parse_hex(*_string_buffers(array))


def valid_of(array: pa.Array) -> Mask | None:
    """Return which values are not null, bool (n,), or None if all; a dictionary's nulls count."""
    valid = pc.is_valid(array).to_numpy(zero_copy_only=False) if array.null_count else None
    if not pa.types.is_dictionary(array.type) or not array.dictionary.null_count:
        return valid
    values = valid_of(array.dictionary)
    assert values is not None
    found: Mask = values[_indices(array)]
    return found if valid is None else valid & found


def fixed_width(array: pa.Array) -> NDArray[Any]:
    """Return the values of a numeric array without a copy; a null's value is undefined."""
    data = array.buffers()[1]
    dtype = array.type.to_pandas_dtype()
    if data is None:
        return np.zeros(len(array), dtype)
    return np.frombuffer(data, dtype, count=array.offset + len(array))[array.offset :]


def _indices(array: pa.DictionaryArray) -> NDArray[Any]:
    # What lies in the place of a null need not be an index.
    return fixed_width(array.indices.fill_null(0) if array.null_count else array.indices)


def _string_buffers(array: pa.Array) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """Return the offsets (n + 1 of them, int32 or int64) and the bytes of an array of strings."""
    kind = array.type
    if kind in _PLAIN:
        array = array.cast(_PLAIN[kind])
    elif pa.types.is_fixed_size_binary(kind):
        array = pc.cast(array, pa.large_binary())
    large = pa.types.is_large_string(array.type) or pa.types.is_large_binary(array.type)
    dtype: type[np.signedinteger[Any]] = np.int64 if large else np.int32
    _, offsets, data = array.buffers()
    if offsets is None or not len(array):
        return np.zeros(len(array) + 1, dtype), np.empty(0, np.uint8)
    stop = array.offset + len(array) + 1
    numbers = np.frombuffer(offsets, dtype, count=stop)[array.offset :]
    return numbers, np.frombuffer(data if data is not None else b"", np.uint8)
