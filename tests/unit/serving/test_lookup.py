"""The look-up library: rows of a file, clean misses, pooling, one copy of the pages."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embery as em
from embery import _native
from embery.rows import decode_values
from embery.serving.lookup import BundleTable
from embery.serving.manifest import TableEntry
from embery.serving.table_file import TableLayout, write_table


def table_of(path: Path, keys: Any, rows: Any, dtype: str = "float32") -> BundleTable:
    """Write a table, its rows in parts and out of order, and open it."""
    stored = _native.encode_rows(rows, dtype)
    order = np.random.default_rng(0).permutation(len(keys))
    layout = TableLayout("item", dtype, rows.shape[1], len(keys))
    entry = write_table(
        path, layout, lambda: ((keys[p], stored[p]) for p in np.array_split(order, 7))
    )
    return BundleTable(str(path), TableEntry("item", dtype, layout.dim, len(keys), entry))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
@pytest.mark.parametrize("count", [0, 1, 4, 5, 10_000])
def test_every_row_is_found_and_every_other_key_missed(
    tmp_path: Path, dtype: str, count: int
) -> None:
    rng = np.random.default_rng(count)
    keys = rng.permutation(2**64 - 1 - np.arange(2 * count, dtype=np.uint64))
    rows = rng.standard_normal((count, 5)).astype(np.float32)
    table = table_of(tmp_path / "t", keys[:count], rows, dtype)
    expected = decode_values(dtype, 5, _native.encode_rows(rows, dtype))
    found, hits = table.lookup_found(keys[:count])
    np.testing.assert_array_equal(found, expected)
    assert hits == count
    missed, hits = table.lookup_found(keys[count:])
    assert hits == 0
    assert not missed.any()


@pytest.mark.parametrize("pooling", ["sum", "mean", "sqrtn"])
def test_pooling_is_that_of_features(tmp_path: Path, pooling: Any) -> None:
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((50, 8)).astype(np.float32)
    table = table_of(tmp_path / "t", np.arange(50, dtype=np.uint64), rows)
    lengths = np.array([3, 0, 1, 5])
    keys, weights = rng.integers(0, 60, 9), rng.random(9).astype(np.float32)
    wide = np.concatenate([rows, np.zeros((10, 8), np.float32)])[keys] * weights[:, None]
    divisors = {"sum": lengths * 0 + 1, "mean": lengths, "sqrtn": np.sqrt(lengths)}[pooling]
    parts = np.split(wide, np.cumsum(lengths)[:-1])
    expected = [part.sum(0) / max(n, 1) for part, n in zip(parts, divisors, strict=True)]
    pooled = table.pool(keys, lengths, weights=weights, pooling=pooling)
    np.testing.assert_allclose(pooled, np.array(expected), rtol=1e-5, atol=1e-6)


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    table = table_of(tmp_path / "t", np.arange(3, dtype=np.uint64), np.ones((3, 2), np.float32))
    for lengths in ([3], [1, 2, -1], [1, 1], [2, 2]):
        with pytest.raises(em.InvalidArgument, match=r"lengths|keys"):
            table.pool(np.arange(3 if lengths != [3] else 2), lengths)
    with pytest.raises(em.InvalidArgument, match="weights"):
        table.pool(np.arange(3), [1, 2], weights=[1.0])
    with pytest.raises(em.InvalidArgument, match="pooling"):
        table.pool(np.arange(3), [1, 2], pooling="max")  # type: ignore[arg-type]
    with pytest.raises(em.InvalidArgument, match="uint64 or int64"):
        table.lookup(np.ones(3))


def test_a_file_depends_on_the_rows_and_not_on_how_they_are_cut(tmp_path: Path) -> None:
    keys = np.arange(1000, dtype=np.uint64)
    stored = keys.astype(np.float32)[:, None].view(np.uint8)
    layout = TableLayout("item", "float32", 1, 1000)
    for parts in (1, 3, 1000):
        write_table(
            tmp_path / str(parts),
            layout,
            lambda parts=parts: zip(
                np.array_split(keys, parts), np.array_split(stored, parts), strict=True
            ),
        )
    files = {(tmp_path / str(parts)).read_bytes() for parts in (1, 3, 1000)}
    assert len(files) == 1


def _private_and_shared_kb(pid: int, path: Path) -> tuple[int, int]:
    """Return how much of a mapping of `path` only this process has, and how much others too."""
    private = shared = 0
    mine = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        words = line.split()
        if "-" in words[0] and not words[0].endswith(":"):
            mine = words[-1] == str(path)
        elif mine and words[0].startswith("Private_"):
            private += int(words[1])
        elif mine and words[0].startswith("Shared_"):
            shared += int(words[1])
    return private, shared


def test_processes_share_one_copy_of_the_pages(tmp_path: Path) -> None:
    keys = np.arange(200_000, dtype=np.uint64)
    table = table_of(tmp_path / "t", keys, np.ones((len(keys), 8), np.float32))
    del table
    table = BundleTable(str(tmp_path / "t"), TableEntry("item", "float32", 8, len(keys), None))  # type: ignore[arg-type]
    reading, writing = os.pipe()
    done_reading, done_writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        other = BundleTable(str(tmp_path / "t"), TableEntry("item", "float32", 8, len(keys), None))  # type: ignore[arg-type]
        os.write(writing, b"1" if other.lookup(keys).all() else b"0")
        os.read(done_reading, 1)
        os._exit(0)
    try:
        assert os.read(reading, 1) == b"1"
        assert table.lookup(keys).all()
        private, shared = _private_and_shared_kb(os.getpid(), tmp_path / "t")
        assert shared > 6_000
        assert private < 200
    finally:
        os.write(done_writing, b"1")
        os.waitpid(pid, 0)
