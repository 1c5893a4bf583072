"""Rows as Arrow record batches: the columns of a row file, without copies.

The encoder and decoder of row files. Columns are numpy arrays as the store gives and takes them:
`key`, `count`, `step`, `time_s`, `lsn` of shape (n,), `values` uint8 (n, value_bytes) as stored,
`state` float32 (n, state_floats).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embery.checkpoint import format as fmt
from embery.checkpoint.format import Columns
from embery.errors import InvalidArgument

SCALE_BYTES = 4
_ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}


def value_bytes(dtype: str, dim: int) -> int:
    """Return the bytes of the stored values of a row, a multiple of four."""
    items = dim * _ITEM_BYTES[dtype]
    return -(-items // 4) * 4 + (SCALE_BYTES if dtype == "int8" else 0)


@dataclass(frozen=True, slots=True)
class RowLayout:
    """How the rows of a table are laid out in columns."""

    table: str
    dtype: str
    dim: int
    value_bytes: int
    state_floats: int

    @staticmethod
    def of(definition: Mapping[str, Any], value_bytes: int, state_floats: int) -> RowLayout:
        """Return the layout of the rows of the table of `definition` (`Table.to_dict()`)."""
        return RowLayout(
            table=definition["name"],
            dtype=definition["dtype"],
            dim=definition["dim"],
            value_bytes=value_bytes,
            state_floats=state_floats,
        )

    @property
    def row_bytes(self) -> int:
        """Return the bytes of a row in a file."""
        scalars = sum(dtype.itemsize for dtype in fmt.ROW_DTYPES.values())
        return scalars + self.value_bytes + 4 * self.state_floats

    def validate(self) -> None:
        """Raise `InvalidArgument` unless the widths fit the dtype and dim."""
        expected = value_bytes(self.dtype, self.dim)
        if self.value_bytes != expected or self.state_floats < 0:
            raise InvalidArgument(
                f"table {self.table!r}: expected {expected} value bytes a row for dtype "
                f"{self.dtype!r} and dim {self.dim}, got {self.value_bytes} value bytes and "
                f"{self.state_floats} floats of state"
            )

    def schema(self, slot_begin: int, slot_end: int) -> pa.Schema:
        """Return the schema of the file of the rows in the slots [slot_begin, slot_end)."""
        fields = [
            pa.field(name, pa.from_numpy_dtype(dtype), nullable=False)
            for name, dtype in fmt.ROW_DTYPES.items()
        ]
        fields.append(pa.field(fmt.VALUES, self._values_type(), nullable=False))
        if self.state_floats:
            state = _vector(pa.float32(), self.state_floats)
            fields.append(pa.field(fmt.STATE, state, nullable=False))
        metadata = {
            fmt.META_CONTENT: fmt.CONTENT_ROWS,
            fmt.META_VERSION: str(fmt.VERSION).encode(),
            fmt.META_TABLE: self.table.encode(),
            fmt.META_SLOTS: f"{slot_begin}-{slot_end}".encode(),
        }
        return pa.schema(fields, metadata=metadata)

    def batches(
        self, columns: Columns, schema: pa.Schema, rows_max: int
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows of `columns` as record batches of at most `rows_max` rows.

        Raises:
            InvalidArgument: a column is missing, or has another dtype or shape than the layout.
        """
        columns = self._checked(columns)
        count = len(columns["key"])
        for begin in range(0, count, rows_max):
            part = slice(begin, min(begin + rows_max, count))
            arrays = [
                _to_arrow(columns[field.name][part], field.type, part.stop - begin)
                for field in schema
            ]
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)

    def columns(self, batch: pa.RecordBatch) -> Columns:
        """Return the columns of `batch` as read-only views of its memory."""
        count = batch.num_rows
        columns = {
            name: _flat(batch.column(name), dtype)[:count] for name, dtype in fmt.ROW_DTYPES.items()
        }
        values = _flat(batch.column(fmt.VALUES), np.dtype(np.uint8))
        columns[fmt.VALUES] = values[: count * self.value_bytes].reshape(count, self.value_bytes)
        state = (
            _flat(batch.column(fmt.STATE), np.dtype(np.float32))[: count * self.state_floats]
            if self.state_floats
            else np.empty(0, np.float32)
        )
        columns[fmt.STATE] = state.reshape(count, self.state_floats)
        return columns

    def _values_type(self) -> pa.DataType:
        if self.dtype == "float32":
            return _vector(pa.float32(), self.dim)
        if self.dtype == "float16":
            return _vector(pa.float16(), self.value_bytes // 2)
        if self.dtype == "bfloat16":
            return _vector(pa.uint16(), self.value_bytes // 2)
        return pa.binary(self.value_bytes)

    def _checked(self, columns: Columns) -> dict[str, NDArray[Any]]:
        count = len(columns["key"]) if "key" in columns else 0
        wanted: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {
            name: (dtype, (count,)) for name, dtype in fmt.ROW_DTYPES.items()
        }
        wanted[fmt.VALUES] = (np.dtype(np.uint8), (count, self.value_bytes))
        wanted[fmt.STATE] = (np.dtype(np.float32), (count, self.state_floats))
        if set(columns) != set(wanted):
            raise InvalidArgument(
                f"rows of table {self.table!r}: expected the columns {sorted(wanted)}, "
                f"got {sorted(columns)}"
            )
        for name, (dtype, shape) in wanted.items():
            column = columns[name]
            if column.dtype != dtype or column.shape != shape:
                raise InvalidArgument(
                    f"rows of table {self.table!r}, column {name!r}: expected {dtype} {shape}, "
                    f"got {column.dtype} {column.shape}"
                )
        return {name: np.ascontiguousarray(columns[name]) for name in wanted}


def _vector(item: pa.DataType, size: int) -> pa.DataType:
    return pa.list_(pa.field("item", item, nullable=False), size)


def _to_arrow(column: NDArray[Any], kind: pa.DataType, count: int) -> pa.Array:
    buffer = pa.py_buffer(column)
    if not pa.types.is_fixed_size_list(kind):
        return pa.Array.from_buffers(kind, count, [None, buffer], null_count=0)
    items = pa.Array.from_buffers(
        kind.value_type, count * kind.list_size, [None, buffer], null_count=0
    )
    return pa.Array.from_buffers(kind, count, [None], null_count=0, children=[items])


def _flat(array: pa.Array, dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.frombuffer(array.buffers()[-1], dtype)
