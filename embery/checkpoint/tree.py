"""The codec of trees: JSON values, numpy arrays and bytes, nested in dicts, lists and tuples.

A tree becomes a JSON text, which holds its shape and its small values, and a list of arrays; a tree
file holds the text in its schema and an array a record batch. What comes back equals what went in,
types included: a float keeps its bits, a tuple stays a tuple, a numpy scalar stays one. Nothing is
pickled.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embery.checkpoint import format as fmt
from embery.checkpoint.format import Tree
from embery.errors import CheckpointCorrupt, InvalidArgument

Array = NDArray[Any]

DEPTH_MAX = 100
INT_BITS_MAX = 4096
_ITEM_BYTES = {"b": (1,), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "f": (2, 4, 8), "c": (8, 16)}
_WANTED = "JSON values, numpy arrays (bool, integer, float, complex) and bytes in dicts and lists"


def encode(tree: Tree) -> tuple[str, list[Array]]:
    """Return `tree` as a JSON text and the C-contiguous arrays that it refers to.

    Raises:
        InvalidArgument: a value has no place in a tree; the message gives its path.
    """
    arrays: list[Array] = []
    shape = _encode(tree, arrays, "state", DEPTH_MAX)
    return json.dumps(shape, allow_nan=False, separators=(",", ":")), arrays


def decode(text: str, arrays: Sequence[Array]) -> Tree:
    """Return the tree of which `encode` made `text`; `arrays` are flat uint8, one an array.

    Raises:
        CheckpointCorrupt: text and arrays do not fit each other.
    """
    try:
        return _decode(json.loads(text), arrays)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointCorrupt(
            f"tree: expected the JSON of docs/formats/checkpoint.md over {len(arrays)} arrays, "
            f"got {text[:200]!r}: {error}"
        ) from error


def schema(text: str) -> pa.Schema:
    """Return the schema of the tree file of the JSON text `text`."""
    metadata = {
        fmt.META_CONTENT: fmt.CONTENT_TREE,
        fmt.META_VERSION: str(fmt.VERSION).encode(),
        fmt.META_TREE: text.encode(),
    }
    return pa.schema([pa.field("data", pa.large_binary(), nullable=False)], metadata=metadata)


def batches(arrays: Sequence[Array], file_schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Yield a record batch for each array."""
    for array in arrays:
        offsets = pa.py_buffer(np.array([0, array.nbytes], np.int64))
        buffers = [None, offsets, pa.py_buffer(array.reshape(-1).view(np.uint8))]
        data = pa.Array.from_buffers(pa.large_binary(), 1, buffers, null_count=0)
        yield pa.RecordBatch.from_arrays([data], schema=file_schema)


def read(file: pa.RecordBatchFileReader) -> Tree:
    """Return the tree in an open tree file; its arrays are the caller's own, and writable.

    Raises:
        CheckpointCorrupt: it is not a tree file, or its parts do not fit each other.
    """
    text = (file.schema.metadata or {}).get(fmt.META_TREE, b"").decode()
    if not file.schema.equals(schema(text), check_metadata=True):
        raise CheckpointCorrupt(f"expected the schema of a tree file, got:\n{file.schema}")
    arrays = []
    for index in range(file.num_record_batches):
        column = file.get_batch(index).column(0)
        if len(column) != 1:
            raise CheckpointCorrupt(f"record batch {index}: expected 1 row, got {len(column)}")
        arrays.append(np.frombuffer(column[0].as_buffer(), np.uint8).copy())
    return decode(text, arrays)


def _encode(value: Any, arrays: list[Array], path: str, depth: int) -> Any:
    if depth == 0:
        raise InvalidArgument(f"{path}: nested deeper than {DEPTH_MAX} levels")
    # numpy's float64 is a float too, so arrays and numpy scalars go first.
    if isinstance(value, np.ndarray | np.generic | bytes):
        return _encode_array(value, arrays, path)
    if isinstance(value, dict):
        return _encode_dict(value, arrays, path, depth)
    if isinstance(value, list | tuple):
        items = [_encode(v, arrays, f"{path}[{i}]", depth - 1) for i, v in enumerate(value)]
        return {"$tuple": items} if isinstance(value, tuple) else items
    return _encode_plain(value, path)


def _encode_plain(value: Any, path: str) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": struct.pack(">d", value).hex()}
    if isinstance(value, int) and value.bit_length() > INT_BITS_MAX:
        raise InvalidArgument(f"{path}: an integer of more than {INT_BITS_MAX} bits")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise InvalidArgument(
        f"{path}: expected {_WANTED}, got {type(value).__module__}.{type(value).__qualname__}"
    )


def _encode_dict(value: dict[Any, Any], arrays: list[Array], path: str, depth: int) -> Any:
    for key in value:
        if isinstance(key, np.generic | bool) or not isinstance(key, str | int):
            raise InvalidArgument(f"{path}: the keys of a dict are str or int, got {key!r}")
    items = [
        [_encode(k, arrays, path, depth - 1), _encode(v, arrays, f"{path}[{k!r}]", depth - 1)]
        for k, v in value.items()
    ]
    if all(isinstance(key, str) and not key.startswith("$") for key in value):
        return dict(items)
    return {"$dict": items}


def _encode_array(value: Array | np.generic | bytes, arrays: list[Array], path: str) -> Any:
    at = len(arrays)
    if isinstance(value, bytes):
        arrays.append(np.frombuffer(value, np.uint8))
        return {"$bytes": at}
    dtype = value.dtype
    if dtype.itemsize not in _ITEM_BYTES.get(dtype.kind, ()):
        raise InvalidArgument(f"{path}: expected {_WANTED}, got dtype {dtype}")
    arrays.append(np.ascontiguousarray(value))
    if isinstance(value, np.generic):
        return {"$scalar": at, "dtype": dtype.str}
    return {"$array": at, "dtype": dtype.str, "shape": list(value.shape)}


def _decode(value: Any, arrays: Sequence[Array]) -> Any:
    if isinstance(value, list):
        return [_decode(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    tag = next(iter(value), "")
    if tag.startswith("$"):
        return _TAGS[tag](value, arrays)
    return {key: _decode(item, arrays) for key, item in value.items()}


def _decode_float(value: dict[str, Any], _arrays: Sequence[Array]) -> float:
    bits = bytes.fromhex(value["$float"])
    if len(bits) != 8:
        raise ValueError(f"{len(bits)} bytes in place of a float's 8")
    number: float = struct.unpack(">d", bits)[0]
    return number


def _decode_dict(value: dict[str, Any], arrays: Sequence[Array]) -> dict[Any, Any]:
    return {key: _decode(item, arrays) for key, item in value["$dict"]}


def _decode_typed(
    tag: Literal["$array", "$scalar"],
) -> Callable[[dict[str, Any], Sequence[Array]], Any]:
    def decode_typed(value: dict[str, Any], arrays: Sequence[Array]) -> Any:
        dtype = np.dtype(str(value["dtype"]))
        if dtype.itemsize not in _ITEM_BYTES.get(dtype.kind, ()):
            raise ValueError(f"dtype {dtype} has no place in a tree")
        flat = arrays[value[tag]].view(dtype)
        if tag == "$scalar":
            return flat.reshape(())[()]
        return flat.reshape(value["shape"])

    return decode_typed


_TAGS: dict[str, Callable[[dict[str, Any], Sequence[Array]], Any]] = {
    "$float": _decode_float,
    "$tuple": lambda value, arrays: tuple(_decode(item, arrays) for item in value["$tuple"]),
    "$dict": _decode_dict,
    "$array": _decode_typed("$array"),
    "$scalar": _decode_typed("$scalar"),
    "$bytes": lambda value, arrays: arrays[value["$bytes"]].tobytes(),
}
