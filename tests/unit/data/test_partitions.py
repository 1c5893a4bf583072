"""Hive partitions: folders NAME=VALUE are columns, of one type in all files, or a clear error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest

from embery.data import Batch, Dense, Parquet, Schema, SparseList
from embery.data.keys import keys_of
from embery.errors import InvalidArgument

Table = Callable[[range], pa.Table]
RowsOf = Callable[[Batch], list[int]]
Same = Callable[[list[Batch], list[Batch]], None]


def write(table: pa.Table, root: Path, *folders: str, row_group_size: int = 70) -> Path:
    path = root.joinpath(*folders, "part-0.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=row_group_size)
    return path


@pytest.fixture
def days(tmp_path: Path, table: Table) -> Path:
    """Three days of 100 rows in row groups of 30, the hours 5, 6 and 7."""
    for day in range(3):
        rows = table(range(day * 100, day * 100 + 100))
        write(rows, tmp_path, f"day=2024-01-0{day + 1}", f"hour={day + 5}", row_group_size=30)
    return tmp_path


def expected_day(row: int) -> int:
    return int(keys_of(pa.array([f"2024-01-0{row // 100 + 1}"]), 0).view("int64")[0])


@pytest.mark.parametrize("shuffle", [False, True])
def test_folders_are_columns_of_every_row(days: Path, rows_of: RowsOf, shuffle: bool) -> None:
    schema = Schema(label="y", dense=["x", "hour"], sparse=["u", "day", SparseList("l")])
    data = Parquet(days, schema=schema, batch_size=64, shuffle=shuffle, shuffle_rows=150)
    seen = []
    for batch in data:
        rows = rows_of(batch)
        seen += rows
        assert batch.sparse is not None
        assert batch.dense is not None
        assert batch.dense.tolist() == [[row / 8, row // 100 + 5] for row in rows]
        assert batch.sparse["day"].values().tolist() == [expected_day(row) for row in rows]
        assert batch.sparse["l"].lengths().tolist() == [row % 4 for row in rows]
    assert sorted(seen) == list(range(300))


def test_what_arrow_writes_as_hive_partitions_is_read_as_it_was(
    tmp_path: Path, table: Table, rows_of: RowsOf
) -> None:
    rows = table(range(40))
    names = ["a b", "c/d=e", "ü", None]
    rows = rows.append_column("kind", pa.array([names[i % 4] for i in range(40)]))
    pads.write_dataset(
        rows, tmp_path, format="parquet",
        partitioning=pads.partitioning(pa.schema([("kind", pa.string())]), flavor="hive"),
    )  # fmt: skip
    keys = keys_of(pa.array(names[:3]), 0).view("int64").tolist()
    read: dict[int, list[int]] = {}
    for batch in Parquet(tmp_path, schema=Schema(label="y", sparse=["u", "kind"]), batch_size=1):
        assert batch.sparse is not None
        read[rows_of(batch)[0]] = batch.sparse["kind"].values().tolist()
    assert read == {i: keys[i % 4 : i % 4 + 1] for i in range(40)}


def test_one_value_that_is_no_integer_makes_strings_of_all(tmp_path: Path, table: Table) -> None:
    paths = [write(table(range(i, i + 1)), tmp_path, f"region={v}") for i, v in enumerate("7x")]
    schema = Schema(label="y", sparse=["u", "region"])
    both, one = (
        next(iter(Parquet(p, schema=schema, batch_size=2))).sparse for p in (paths, paths[0])
    )
    assert both is not None
    assert one is not None
    hashed = keys_of(pa.array(["7", "x"]), 0).view("int64").tolist()
    assert both["region"].values().tolist() == hashed
    assert one["region"].values().tolist() == [7]


def test_a_partition_may_be_the_label_but_not_null(tmp_path: Path, table: Table) -> None:
    for label in (0, 1):
        write(table(range(3)).drop_columns("y"), tmp_path, f"y={label}")
    data = Parquet(tmp_path, schema=Schema(label="y", sparse=["u"]), batch_size=6)
    assert next(iter(data)).label.tolist() == [0, 0, 0, 1, 1, 1]
    null = "y=__HIVE_DEFAULT_PARTITION__"
    write(table(range(3)).drop_columns("y"), tmp_path, null)
    with pytest.raises(InvalidArgument, match=rf"{null}/part-0\.parquet: the label 'y'.* is null"):
        Parquet(tmp_path, schema=Schema(label="y"), batch_size=6)


def test_folders_alone_may_be_all_that_is_read(tmp_path: Path, table: Table) -> None:
    write(table(range(100)).drop_columns("y"), tmp_path, "y=1", "day=3")
    data = Parquet(tmp_path, schema=Schema(label="y", sparse=["day"]), batch_size=64)
    assert [(b.label.unique().tolist(), len(b)) for b in data] == [([1.0], 64), ([1.0], 36)]
    batch = next(iter(data))
    assert batch.sparse is not None
    assert batch.sparse["day"].values().tolist() == [3] * 64


def test_a_null_folder_reads_as_a_missing_value(tmp_path: Path, table: Table) -> None:
    write(table(range(1)), tmp_path, "h=3")
    write(table(range(1)), tmp_path, "h=__HIVE_DEFAULT_PARTITION__")
    schema = Schema(label="y", dense=[Dense("h", default=-1.0)], sparse=["h"])
    batch = next(iter(Parquet(tmp_path, schema=schema, batch_size=2)))
    assert batch.dense is not None
    assert batch.sparse is not None
    assert batch.dense.tolist() == [[3.0], [-1.0]]
    assert batch.sparse["h"].lengths().tolist() == [1, 0]


def test_a_column_of_the_file_goes_before_the_folder(
    tmp_path: Path, table: Table, rows_of: RowsOf
) -> None:
    write(table(range(5)), tmp_path, "u=9")
    data = Parquet(tmp_path, schema=Schema(label="y", sparse=["u"]), batch_size=5)
    assert rows_of(next(iter(data))) == [0, 1, 2, 3, 4]


def test_a_partitioned_epoch_resumes_bit_for_bit(days: Path, assert_same_batches: Same) -> None:
    schema = Schema(label="y", sparse=["u", "day"])
    data = Parquet(days, schema=schema, batch_size=16, shuffle=True, shuffle_rows=64, seed=2)
    assert_same_batches(list(data.batches(epoch=1))[7:], list(data.batches(epoch=1, start=7)))


def test_a_file_without_the_partition_is_named_with_the_column(days: Path, table: Table) -> None:
    schema = Schema(label="y", sparse=["u", "day"])
    pq.write_table(table(range(3)), days / "stray.parquet")
    wanted = r"stray\.parquet: no column 'day'; the file has \['y'.*no folder 'day=\.\.\.'"
    with pytest.raises(InvalidArgument, match=wanted):
        Parquet(days, schema=schema, batch_size=8)
    assert Parquet(days, schema=Schema(label="y"), batch_size=8).num_rows == 303
    with pytest.raises(InvalidArgument, match=r"part-0\.parquet: no column 'week'; the file has"):
        Parquet(days, schema=Schema(label="y", sparse=["week"]), batch_size=8)


def test_a_partition_named_twice_in_a_path_is_refused(tmp_path: Path, table: Table) -> None:
    write(table(range(3)), tmp_path, "day=1", "day=2")
    with pytest.raises(InvalidArgument, match=r"no column 'day'.*2 folders 'day=\.\.\.'"):
        Parquet(tmp_path, schema=Schema(label="y", sparse=["day"]), batch_size=8)


def test_a_partition_of_the_wrong_type_is_refused(days: Path) -> None:
    with pytest.raises(InvalidArgument, match="column 'day' has Arrow type string, which a Dense"):
        Parquet(days, schema=Schema(label="y", dense=["day"]), batch_size=8)
