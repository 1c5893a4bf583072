"""Writes the file of a frozen table, in memory that does not grow with the table.

The encoder of the format that `csrc/serving/frozen_table.h` reads. Rows arrive in any order and go
to their places in the mapped file by a counting sort: one pass counts the keys of each bucket, one
puts each row where its bucket has room. Checkpoints hold rows by slot, the top bits of the same
mixed hash that chooses the bucket, so both passes walk through the file.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embery import _native
from embery.checkpoint.columns import value_bytes
from embery.errors import InvalidArgument
from embery.serving.manifest import FileEntry
from embery.table import DTYPES

U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]
Bytes = NDArray[np.uint8]
# Some rows: keys (n,), and values (n, row bytes) as they are stored.
Rows = tuple[U64, Bytes]

MAGIC = b"EMBERYTB"
VERSION = 1
_HEADER = struct.Struct("<8s4I3Q")
_PAGE_BYTES = 4096
_KEYS_PER_BUCKET = 4
_ROWS_MAX = 2**32 - 2
_CHUNK = 1 << 20
# Bytes of rows between two times at which what was mapped is given back.
_RELEASE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class TableLayout:
    """Where the parts of a table's file begin."""

    name: str
    dtype: str
    dim: int
    rows: int

    @property
    def row_bytes(self) -> int:
        """Return the bytes of a row."""
        return value_bytes(self.dtype, self.dim)

    @property
    def buckets(self) -> int:
        """Return how many buckets the index has."""
        return max(1, -(-self.rows // _KEYS_PER_BUCKET))

    @property
    def keys_begin(self) -> int:
        """Return where the keys begin."""
        return _round_up(_PAGE_BYTES + 4 * (self.buckets + 1))

    @property
    def values_begin(self) -> int:
        """Return where the values begin."""
        return _round_up(self.keys_begin + 8 * self.rows)

    @property
    def file_bytes(self) -> int:
        """Return the bytes of the file."""
        return self.values_begin + self.rows * self.row_bytes

    def header(self) -> bytes:
        """Return the first bytes of the file."""
        return _HEADER.pack(
            MAGIC, VERSION, DTYPES.index(self.dtype), self.dim, self.row_bytes, self.rows,
            self.buckets, _native.table_salt(self.name),
        )  # fmt: skip


def write_table(path: Path, layout: TableLayout, passes: Callable[[], Iterator[Rows]]) -> FileEntry:
    """Write the file of a table and sync it.

    Args:
        path: of the file, which must not exist.
        layout: with the number of rows that a pass yields.
        passes: begins a pass over the rows: the same ones in the same order, each time.

    Raises:
        InvalidArgument: the table has more rows than the format holds.
        OSError: the file cannot be written; it is left as it is.
    """
    if layout.rows > _ROWS_MAX:
        raise InvalidArgument(
            f"table {layout.name!r}: a bundle holds at most {_ROWS_MAX} rows a table, got "
            f"{layout.rows}; leave some out with min_count or max_age_s"
        )
    with path.open("xb+") as file:
        # Room for all of it now: memory that is mapped has no other way to say that a disk is full
        # than to end the process.
        os.posix_fallocate(file.fileno(), 0, layout.file_bytes)
        # Unmapped when the last array on it is gone, which a failure may keep for its traceback.
        mapping = mmap.mmap(file.fileno(), layout.file_bytes)
        mapping[: _HEADER.size] = layout.header()
        _fill(mapping, layout, passes)
        mapping.flush()
        os.fsync(file.fileno())
    return entry_of(path)


def entry_of(path: Path) -> FileEntry:
    """Return the size and the SHA-256 of a file."""
    with path.open("rb") as file:
        return FileEntry(path.name, os.fstat(file.fileno()).st_size, sha256_of(file))


def sha256_of(file: Any) -> str:
    """Return the SHA-256 of what is left to read of a binary file, in hex."""
    digest, chunk = hashlib.sha256(), memoryview(bytearray(_CHUNK))
    while count := file.readinto(chunk):
        digest.update(chunk[:count])
    return digest.hexdigest()


def _fill(mapping: mmap.mmap, layout: TableLayout, passes: Callable[[], Iterator[Rows]]) -> None:
    starts: U32 = np.frombuffer(mapping, np.uint32, layout.buckets + 1, _PAGE_BYTES)
    keys: U64 = np.frombuffer(mapping, np.uint64, layout.rows, layout.keys_begin)
    size = layout.rows * layout.row_bytes
    values = np.frombuffer(mapping, np.uint8, size, layout.values_begin)
    values = values.reshape(layout.rows, layout.row_bytes)
    salt, pending = _native.table_salt(layout.name), 0
    for some, _ in passes():
        np.add.at(starts, 1 + _buckets_of(some, salt, layout.buckets), np.uint32(1))
    _add_up(starts)
    # From here on starts[b] is where the next row of bucket b goes.
    for some, rows in passes():
        buckets = _buckets_of(some, salt, layout.buckets)
        order = np.argsort(buckets, kind="stable")
        ordered = buckets[order]
        first = np.flatnonzero(np.diff(ordered, prepend=-1))
        counts = np.diff(first, append=len(ordered))
        within = np.arange(len(ordered)) - np.repeat(first, counts)
        places = starts[ordered] + within
        keys[places] = some[order]
        values[places] = rows[order]
        starts[ordered[first]] += counts.astype(np.uint32)
        pending += rows.nbytes
        if pending > _RELEASE_BYTES:
            # Given back to the page cache, from where the system writes it out; nothing is lost.
            mapping.madvise(mmap.MADV_DONTNEED)
            pending = 0
    _shift(starts)


def _buckets_of(keys: U64, salt: int, buckets: int) -> NDArray[np.int64]:
    mixed = _native.mix_keys(salt, keys)
    found: NDArray[np.int64] = ((mixed >> np.uint64(32)) * np.uint64(buckets)) >> np.uint64(32)
    return found.view(np.int64)


def _add_up(starts: U32) -> None:
    """Turn counts into sums, in place and a chunk at a time."""
    before = np.uint32(0)
    for begin in range(0, len(starts), _CHUNK):
        part = starts[begin : begin + _CHUNK]
        np.cumsum(part, dtype=np.uint32, out=part)
        part += before
        before = part[-1]


def _shift(starts: U32) -> None:
    """Move every entry one place up, the first one becoming zero."""
    for end in range(len(starts), 1, -_CHUNK):
        begin = max(1, end - _CHUNK)
        starts[begin:end] = starts[begin - 1 : end - 1].copy()
    starts[0] = 0


def _round_up(size: int) -> int:
    return -(-size // _PAGE_BYTES) * _PAGE_BYTES
