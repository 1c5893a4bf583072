"""Small data sets, and the comparison of batches bit by bit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from embery.data import Batch, Schema, SparseList


@pytest.fixture
def schema() -> Schema:
    return Schema(label="y", dense=["x"], sparse=["u", SparseList("l", weights="w")])


def _table(rows: range) -> pa.Table:
    """Return rows that say which they are: the key of "u" is the row's number."""
    numbers = np.arange(rows.start, rows.stop)
    lists = [[int(i) * 10 + j for j in range(i % 4)] for i in numbers]
    return pa.table(
        {
            "y": pa.array(numbers % 2, pa.int8()),
            "x": pa.array(numbers / 8, pa.float64()),
            "u": pa.array(numbers, pa.int64()),
            "l": pa.array(lists, pa.list_(pa.int64())),
            "w": pa.array([[v / 2 for v in one] for one in lists], pa.list_(pa.float32())),
        }
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three files of 1000 rows in all, in row groups of 70."""
    for name, rows in (("a", range(400)), ("b", range(400, 401)), ("c", range(401, 1000))):
        pq.write_table(_table(rows), tmp_path / f"{name}.parquet", row_group_size=70)
    return tmp_path


def _rows_of(batch: Batch) -> list[int]:
    """Return the numbers of the rows in a batch of `table`s."""
    assert batch.sparse is not None
    return batch.sparse["u"].values().tolist()


def _assert_same_batches(left: list[Batch], right: list[Batch]) -> None:
    """Check that two lists hold the same batches, bit for bit."""
    assert [b.index for b in left] == [b.index for b in right]
    for one, other in zip(left, right, strict=True):
        assert torch.equal(one.label, other.label)
        assert (one.dense is None) == (other.dense is None)
        if one.dense is not None and other.dense is not None:
            assert torch.equal(one.dense, other.dense)
        assert one.sparse is not None
        assert other.sparse is not None
        assert one.sparse.keys() == other.sparse.keys()
        assert torch.equal(one.sparse.values(), other.sparse.values())
        assert torch.equal(one.sparse.lengths(), other.sparse.lengths())
        weights = one.sparse.weights_or_none(), other.sparse.weights_or_none()
        assert (weights[0] is None) == (weights[1] is None)
        if weights[0] is not None and weights[1] is not None:
            assert torch.equal(weights[0], weights[1])


@pytest.fixture
def table() -> Callable[[range], pa.Table]:
    return _table


@pytest.fixture
def rows_of() -> Callable[[Batch], list[int]]:
    return _rows_of


@pytest.fixture
def assert_same_batches() -> Callable[[list[Batch], list[Batch]], None]:
    return _assert_same_batches


@pytest.fixture
def no_threads_left() -> Iterator[None]:
    """Check that the test ends without a reader thread."""
    yield
    left = [t.name for t in threading.enumerate() if t.name.startswith("embery-data")]
    assert not left
