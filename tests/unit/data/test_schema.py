"""A schema says what is wrong with itself or with a file, by name."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pytest

from embery.data import Dense, Label, Schema, Sparse, SparseList
from embery.errors import InvalidArgument

FIELDS = pa.schema(
    [
        ("click", pa.int8()),
        ("price", pa.float64()),
        ("user", pa.string()),
        ("items", pa.list_(pa.int64())),
        ("scores", pa.list_(pa.float32())),
        ("when", pa.timestamp("s")),
    ]
)


def test_strings_stand_for_plain_columns() -> None:
    short = Schema(label="click", dense=["price"], sparse=["user", SparseList("items")])
    full = Schema(
        label=[Label("click")],
        dense=[Dense("price")],
        sparse=[Sparse("user"), SparseList("items")],
    )
    assert short == full
    assert short.keys == ["user", "items"]


def test_columns_to_read_include_weights_and_come_once() -> None:
    schema = Schema(
        label="click",
        sparse=[
            SparseList("items", weights="scores"),
            SparseList("items", feature="items again", hash_seed=1),
        ],
    )
    assert schema.columns == ["click", "items", "scores"]
    assert schema.keys == ["items", "items again"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Schema(label=[]), "Schema.label must name at least one"),
        (lambda: Schema(label=""), "Label.name must be a non-empty string"),
        (lambda: Schema(label="y", sparse=["a", "a"]), "Schema.sparse names 'a' twice"),
        (lambda: Schema(label="y", dense=["a", "a"]), "Schema.dense names 'a' twice"),
        (lambda: Schema(label="y", sparse="user"), "Schema.sparse must be a list"),
        (lambda: Schema(label="y", dense=[Sparse("a")]), "Schema.dense takes names and Dense"),
        (lambda: Schema(label="y", sparse=[3]), "Schema.sparse takes names and Sparse"),
        (lambda: Schema(label="y", dense=[Dense("a", transform="log")]), "None or 'log1p'"),
        (lambda: Schema(label="y", dense=[Dense("a", default=float("nan"))]), "finite number"),
        (lambda: Schema(label="y", sparse=[Sparse("a", hash_seed=2**32)]), "hash_seed must lie"),
        (lambda: Schema(label="y", sparse=[Sparse("a", hash_seed=-1)]), "hash_seed must lie"),
        (lambda: Schema(label="y", sparse=[SparseList("a", max_length=0)]), "max_length must lie"),
        (lambda: Schema(label="y", sparse=[Sparse("a", feature="")]), "feature must be a non-"),
    ],
)
def test_a_misdescribed_column_is_named(make: Callable[[], Schema], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        make()


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (Schema(label="absent"), r"f.parquet: no column 'absent'; the file has \['click'"),
        (Schema(label="user"), "'user' has Arrow type string, which a Label column cannot be"),
        (Schema(label="click", dense=["user"]), "'user' has Arrow type string, which a Dense"),
        (Schema(label="click", sparse=["price"]), "'price' has Arrow type double, which a Sparse"),
        (Schema(label="click", sparse=["when"]), "'when' has Arrow type timestamp"),
        (Schema(label="click", sparse=["items"]), r"for lists, describe it as SparseList"),
        (Schema(label="click", sparse=[SparseList("user")]), "'user' has Arrow type string"),
        (Schema(label="click", sparse=[SparseList("scores")]), "'scores' has Arrow type list"),
        (
            Schema(label="click", sparse=[SparseList("items", weights="absent")]),
            "no column 'absent'",
        ),
        (
            Schema(label="click", sparse=[SparseList("items", weights="price")]),
            "the weights of 'items' must be lists of numbers",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_column(schema: Schema, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        schema.check(FIELDS, "f.parquet")


def test_a_column_that_is_there_twice_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="2 columns named 'click'"):
        Schema(label="click").check(pa.schema([("click", pa.int8())] * 2), "f.parquet")


def test_a_file_that_fits_passes_and_may_have_more_columns() -> None:
    schema = Schema(
        label="click", dense=["price"], sparse=["user", SparseList("items", weights="scores")]
    )
    schema.check(FIELDS, "f.parquet")
    assert set(schema.columns) < set(FIELDS.names)
