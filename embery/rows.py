"""One row in words: what `Store.inspect` and `embery inspect` show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embery.table import Table

# Names of the parts of the optimizer state, each of dim floats but for row-wise Adagrad's one.
_STATE_PARTS: dict[str, tuple[str, ...]] = {
    "momentum": ("m",),
    "adagrad": ("s",),
    "rowwise_adagrad": ("s",),
    "adam": ("m", "v"),
    "lazy_adam": ("m", "v"),
    "adamw": ("m", "v"),
    "ftrl": ("z", "n"),
}


def decode_values(dtype: str, dim: int, stored: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return stored values as float32.

    Args:
        dtype: storage type of the table.
        dim: values a row.
        stored: uint8, shape (n, value bytes), as exported from a store.

    Returns:
        float32, shape (n, dim).
    """
    if dtype == "float32":
        return stored.view(np.float32)[:, :dim]
    if dtype == "float16":
        return stored.view(np.float16)[:, :dim].astype(np.float32)
    if dtype == "bfloat16":
        return (stored.view(np.uint16)[:, :dim].astype(np.uint32) << 16).view(np.float32)
    scale = np.ascontiguousarray(stored[:, -4:]).view(np.float32)
    return stored.view(np.int8)[:, :dim].astype(np.float32) * scale


def describe(table: Table, columns: Mapping[str, NDArray[Any]], row: int) -> dict[str, Any]:
    """Return the row at place `row` of exported `columns` as plain values."""
    state = columns["state"][row]
    parts = _STATE_PARTS.get(table.optimizer.kind, ())
    width = len(state) // len(parts) if parts else 0
    values = decode_values(table.dtype, table.dim, columns["values"][row : row + 1])[0]
    return {
        "table": table.name,
        "key": int(columns["key"][row]),
        "values": values.tolist(),
        "state": {
            part: state[i * width : (i + 1) * width].tolist() for i, part in enumerate(parts)
        },
        "updates": int(columns["count"][row]),
        "last_step": int(columns["step"][row]),
        "last_time_s": int(columns["time_s"][row]),
        "lsn": int(columns["lsn"][row]),
    }
