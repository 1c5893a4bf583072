"""Arrow columns become blocks: transforms, nulls, lists, weights, and errors with their place."""

from __future__ import annotations

import math
from collections.abc import Callable

import mmh3
import numpy as np
import pyarrow as pa
import pytest

from embery.data import Dense, Schema, Sparse, SparseList
from embery.data.convert import block_of
from embery.data.dataset import Batch, batch_of
from embery.errors import InvalidArgument


def batch(schema: Schema, **columns: pa.Array) -> Batch:
    names = list(columns)
    records = pa.RecordBatch.from_arrays([columns[name] for name in names], names)
    return batch_of(block_of(records, schema, "here", first_row=100), schema, 0)


Y = pa.array([0, 1, 1], pa.int8())


def test_one_label_is_a_vector_and_several_are_a_matrix() -> None:
    both = {"y": Y, "z": pa.array([True, False, True])}
    assert batch(Schema(label="y"), **both).label.tolist() == [0, 1, 1]
    assert batch(Schema(label=["z", "y"]), **both).label.tolist() == [[1, 0], [0, 1], [1, 1]]


def test_without_dense_or_sparse_columns_these_are_none() -> None:
    plain = batch(Schema(label="y"), y=Y)
    assert plain.dense is None
    assert plain.sparse is None
    assert len(plain) == 3


def test_dense_columns_are_transformed_and_nulls_read_as_the_default() -> None:
    schema = Schema(label="y", dense=["a", Dense("b", transform="log1p", default=-1.0)])
    got = batch(schema, y=Y, a=pa.array([1.5, None, 3.0]), b=pa.array([-5, None, 7], pa.int32()))
    assert got.dense is not None
    expected = [[1.5, 0.0], [0.0, -1.0], [3.0, math.log(8)]]
    np.testing.assert_allclose(got.dense.numpy(), np.float32(expected), rtol=1e-7)


def test_a_missing_single_value_is_an_empty_bag() -> None:
    schema = Schema(label="y", sparse=["a", Sparse("s", feature="name", hash_seed=9)])
    got = batch(schema, y=Y, a=pa.array([-1, None, 5]), s=pa.array(["p", "", None])).sparse
    assert got is not None
    assert got.keys() == ["a", "name"]
    hashes = [mmh3.hash64(s, 9)[0] for s in ("p", "")]
    assert got.values().tolist() == [-1, 5, *hashes]
    assert got.lengths().tolist() == [1, 0, 1, 1, 1, 0]
    assert got.weights_or_none() is None


@pytest.mark.parametrize("lists", [pa.list_, pa.large_list], ids=["list", "large_list"])
def test_lists_drop_nulls_with_their_weights_and_null_lists_are_empty(
    lists: Callable[[pa.DataType], pa.DataType],
) -> None:
    schema = Schema(label="y", sparse=[SparseList("l", weights="w"), "a"])
    got = batch(
        schema,
        y=Y,
        l=pa.array([[1, None, 3], None, [4]], lists(pa.int64())),
        w=pa.array([[0.1, None, 0.3], [], [0.4]], lists(pa.float64())),
        a=pa.array([7, 8, 9]),
    ).sparse
    assert got is not None
    assert got.values().tolist() == [1, 3, 4, 7, 8, 9]
    assert got.lengths().tolist() == [2, 0, 1, 1, 1, 1]
    assert got.weights().tolist() == np.float32([0.1, 0.3, 0.4, 1, 1, 1]).tolist()


def test_sliced_and_fixed_size_lists_keep_their_rows() -> None:
    schema = Schema(label="y", sparse=[SparseList("l"), SparseList("f")])
    got = batch(
        schema,
        y=Y,
        l=pa.array([["no"], ["a"], [], ["b", "c"]]).slice(1),
        f=pa.array([[0, 0], [1, 2], None, [5, 6]], pa.list_(pa.int64(), 2)).slice(1),
    ).sparse
    assert got is not None
    assert got["f"].values().tolist() == [1, 2, 5, 6]
    assert got["l"].values().tolist() == [mmh3.hash64(s, 0)[0] for s in "abc"]
    assert got.lengths().tolist() == [1, 0, 2, 2, 0, 2]


def test_lists_are_cut_after_their_nulls_are_dropped() -> None:
    schema = Schema(label="y", sparse=[SparseList("l", weights="w", max_length=2)])
    got = batch(
        schema,
        y=Y,
        l=pa.array([[None, 1, 2, 3], [4], [5, 6, 7]]),
        w=pa.array([[9.0, 1, 2, 3], [4.0], [5.0, 6, 7]]),
    ).sparse
    assert got is not None
    assert got.values().tolist() == [1, 2, 4, 5, 6]
    assert got.weights().tolist() == [1, 2, 4, 5, 6]
    assert got.lengths().tolist() == [2, 1, 2]


NAN = float("nan")
ROW = r"here: column '{}', row 101: "
ONES = pa.array([1, 1, 1])
WEIGHTED = Schema(label="y", sparse=[SparseList("l", weights="w")])


@pytest.mark.parametrize(
    ("schema", "columns", "message"),
    [
        (Schema(label="a"), {"a": pa.array([1, None, 0])}, ROW.format("a") + "a label must not"),
        (Schema(label="a"), {"a": pa.array([1.0, NAN, 0])}, ROW.format("a") + "a label must be"),
        (
            Schema(label="y", dense=["a"]),
            {"y": ONES, "a": pa.array([1.0, NAN, 0])},
            ROW.format("a") + "not a finite float32; store a missing value as null",
        ),
        (
            Schema(label="y", dense=[Dense("a", transform="log1p")]),
            {"y": ONES, "a": pa.array([1.0, math.inf, 0])},
            ROW.format("a") + "not a finite",
        ),
        (
            Schema(label="y", dense=["a"]),
            {"y": ONES, "a": pa.array([1.0, 1e300, 0])},
            ROW.format("a") + "not a finite",
        ),
        (
            WEIGHTED,
            {"y": ONES, "l": pa.array([[1], [2, 3], []]), "w": pa.array([[1.0], [1.0], []])},
            ROW.format("w") + "the list is not as long as the list of column 'l'",
        ),
        (
            WEIGHTED,
            {"y": ONES, "l": pa.array([[1], [2], []]), "w": pa.array([[1.0], [NAN], []])},
            ROW.format("w") + "a weight must be a finite float32",
        ),
        (
            WEIGHTED,
            {"y": ONES, "l": pa.array([[1], [2], []]), "w": pa.array([[1.0], [None], []])},
            ROW.format("w") + "a weight must be a finite float32",
        ),
    ],
)
def test_a_bad_value_is_named_with_its_source_column_and_row(
    schema: Schema, columns: dict[str, pa.Array], message: str
) -> None:
    with pytest.raises(InvalidArgument, match=message):
        batch(schema, **columns)


def test_a_list_of_negative_length_is_refused() -> None:
    offsets = pa.array([0, 2, 1, 3], pa.int32())
    broken = pa.ListArray.from_buffers(
        pa.list_(pa.int64()), 3, [None, offsets.buffers()[1]], children=[pa.array([1, 2, 3])]
    )
    with pytest.raises(InvalidArgument, match="column 'l', row 101: a list has a negative length"):
        batch(Schema(label="y", sparse=[SparseList("l")]), y=Y, l=broken)
