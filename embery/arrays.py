"""Arrays of callers to the arrays that the native core takes, without copies where possible."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embery.errors import InvalidArgument


def _as_numpy(value: Any, where: str) -> NDArray[Any]:
    """Return `value` as an array: the buffer protocol, DLPack on the CPU, or a sequence of ints."""
    if isinstance(value, np.ndarray):
        return value
    if getattr(value, "requires_grad", False):
        value = value.detach()
    if hasattr(value, "__dlpack__"):
        _require_cpu(value, where)
        with suppress(BufferError, TypeError, RuntimeError):
            return np.from_dlpack(value)
        # Some exporters refuse what the buffer or array protocol below still offers.
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidArgument(
            f"{where}: expected an array with the buffer protocol or DLPack, "
            f"got {type(value).__name__}: {error}"
        ) from error


def _require_cpu(value: Any, where: str) -> None:
    try:
        kind = int(value.__dlpack_device__()[0])
    except (ValueError, BufferError, RuntimeError) as error:
        raise InvalidArgument(f"{where}: no array in memory of the CPU: {error}") from error
    if kind != 1:
        raise InvalidArgument(
            f"{where} lies on a device (DLPack type {kind}), expected memory of the CPU; move it "
            "there first, e.g. by .cpu()"
        )


def as_keys(value: Any, where: str) -> NDArray[np.uint64]:
    """Return `value` as a contiguous uint64 array of shape (n,); int64 is taken as its bits."""
    array = _as_numpy(value, where)
    if array.size == 0 and array.ndim == 1 and not isinstance(value, np.ndarray):
        array = array.astype(np.uint64)
    if array.dtype not in (np.dtype(np.uint64), np.dtype(np.int64)):
        raise InvalidArgument(
            f"{where} must be uint64 or int64, got {array.dtype}; convert it, e.g. by "
            ".astype('int64'), if its values are keys"
        )
    if array.ndim != 1:
        raise InvalidArgument(f"{where} must have shape (n,), got {array.shape}")
    return np.ascontiguousarray(array).view(np.uint64)


def as_rows(value: Any, where: str, count: int, dim: int) -> NDArray[np.float32]:
    """Return `value` as a contiguous float32 array of shape (count, dim)."""
    array = _as_numpy(value, where)
    if array.dtype != np.float32:
        raise InvalidArgument(f"{where} must be float32, got {array.dtype}")
    if array.shape != (count, dim):
        raise InvalidArgument(f"{where} must have shape ({count}, {dim}), got {array.shape}")
    return np.ascontiguousarray(array)


def as_out(value: NDArray[np.float32], where: str, count: int, dim: int) -> NDArray[np.float32]:
    """Return `value` if rows can be written to it: float32, (count, dim), C-contiguous."""
    if not isinstance(value, np.ndarray):
        raise InvalidArgument(f"{where} must be a numpy array, got {type(value).__name__}")
    if value.dtype != np.float32 or value.shape != (count, dim):
        raise InvalidArgument(
            f"{where} must be float32 of shape ({count}, {dim}), got {value.dtype} of {value.shape}"
        )
    if not value.flags.c_contiguous or not value.flags.writeable:
        raise InvalidArgument(f"{where} must be C-contiguous and writable")
    return value
