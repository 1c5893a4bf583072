"""Parquet data sets: every row once, resumed bit for bit, and damage named before it is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import fs as pafs

from embery.data import Batch, Parquet, Schema, parquet
from embery.data.block import Block
from embery.errors import EmberyError, InvalidArgument

Same = Callable[[list[Batch], list[Batch]], None]
RowsOf = Callable[[Batch], list[int]]


@pytest.mark.parametrize("batch_size", [1, 64, 70, 333, 1000, 5000])
def test_rows_come_in_order_in_full_batches(
    folder: Path, schema: Schema, rows_of: RowsOf, batch_size: int
) -> None:
    data = Parquet(folder, schema=schema, batch_size=batch_size)
    batches = list(data)
    assert data.num_rows == 1000
    assert data.num_batches == len(batches)
    assert [b.index for b in batches] == list(range(len(batches)))
    assert [len(b) for b in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert [row for b in batches for row in rows_of(b)] == list(range(1000))


def test_all_columns_of_a_row_stay_together(folder: Path, schema: Schema) -> None:
    for batch in Parquet(folder, schema=schema, batch_size=96, shuffle=True, shuffle_rows=300):
        assert batch.sparse is not None
        assert batch.dense is not None
        numbers = batch.sparse["u"].values()
        assert batch.label.tolist() == (numbers % 2).tolist()
        assert batch.dense[:, 0].tolist() == (numbers / 8).tolist()
        lists = batch.sparse["l"]
        assert lists.lengths().tolist() == (numbers % 4).tolist()
        expected = [n * 10 + j for n in numbers.tolist() for j in range(n % 4)]
        assert lists.values().tolist() == expected
        assert lists.weights().tolist() == [v / 2 for v in expected]


def test_shuffling_keeps_every_row_once_and_differs_by_seed_and_epoch(
    folder: Path, schema: Schema, rows_of: RowsOf, assert_same_batches: Same
) -> None:
    def epoch(seed: int, number: int) -> list[Batch]:
        data = Parquet(
            folder, schema=schema, batch_size=64, shuffle=True, shuffle_rows=256, seed=seed
        )
        return list(data.batches(epoch=number))

    orders = [[r for b in epoch(s, e) for r in rows_of(b)] for s in (0, 1) for e in (0, 1)]
    assert all(sorted(order) == list(range(1000)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert_same_batches(epoch(1, 1), epoch(1, 1))


def test_a_shuffled_window_mixes_row_groups(folder: Path, schema: Schema, rows_of: RowsOf) -> None:
    data = Parquet(folder, schema=schema, batch_size=250, shuffle=True, shuffle_rows=1000)
    first = rows_of(next(iter(data)))
    assert len({row // 70 for row in first}) > 8


OPTIONS = st.fixed_dictionaries(
    {
        "batch_size": st.integers(1, 400),
        "shuffle": st.booleans(),
        "shuffle_rows": st.integers(1, 1200),
        "drop_last": st.booleans(),
    }
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(options=OPTIONS, readers=st.integers(1, 4), at=st.floats(0, 1))
def test_an_epoch_resumed_at_any_batch_goes_on_bit_for_bit(
    folder: Path,
    schema: Schema,
    assert_same_batches: Same,
    *,
    options: dict[str, Any],
    readers: int,
    at: float,
) -> None:
    once = Parquet(folder, schema=schema, seed=5, readers=1, **options)
    again = Parquet(folder, schema=schema, seed=5, readers=readers, **options)
    whole = list(once.batches(epoch=2))
    start = round(at * len(whole))
    assert once.num_batches == len(whole)
    assert_same_batches(whole[start:], list(again.batches(epoch=2, start=start)))


def test_resuming_reads_only_the_row_groups_it_needs(
    folder: Path, schema: Schema, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    original = parquet._read_group

    def recorded(group: parquet._RowGroup, schema: Schema, skip: int) -> Block:
        read.append(group.where)
        return original(group, schema, skip)

    monkeypatch.setattr(parquet, "_read_group", recorded)
    list(Parquet(folder, schema=schema, batch_size=100).batches(start=9))
    assert [Path(where).name for where in read] == [
        "c.parquet, row group 7", "c.parquet, row group 8",
    ]  # fmt: skip


def test_drop_last_leaves_out_only_the_short_batch(folder: Path, schema: Schema) -> None:
    data = Parquet(folder, schema=schema, batch_size=300, drop_last=True)
    assert [len(b) for b in data] == [300, 300, 300]
    assert data.num_batches == 3


def test_a_position_outside_the_epoch_is_refused(folder: Path, schema: Schema) -> None:
    data = Parquet(folder, schema=schema, batch_size=100)
    assert list(data.batches(start=10)) == []
    with pytest.raises(InvalidArgument, match=r"start must lie in \[0, 10\]"):
        data.batches(start=11)
    with pytest.raises(InvalidArgument, match="start must lie in"):
        data.batches(start=-1)
    with pytest.raises(InvalidArgument, match="epoch must be an integer"):
        data.batches(epoch=0.5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("argument", "value"),
    [("batch_size", 0), ("shuffle_rows", 0), ("readers", 0), ("seed", -1), ("schema", None)],
)
def test_an_argument_out_of_range_is_named(
    folder: Path, schema: Schema, argument: str, value: object
) -> None:
    arguments: dict[str, object] = {"schema": schema, "batch_size": 8, argument: value}
    with pytest.raises(InvalidArgument, match=argument):
        Parquet(folder, **arguments)  # type: ignore[arg-type]


def test_a_file_in_any_arrow_filesystem_is_read(
    folder: Path, schema: Schema, assert_same_batches: Same
) -> None:
    local = list(Parquet(folder, schema=schema, batch_size=128))
    below = pafs.SubTreeFileSystem(str(folder), pafs.LocalFileSystem())
    assert_same_batches(
        local, list(Parquet("*.parquet", schema=schema, batch_size=128, filesystem=below))
    )
    assert_same_batches(local, list(Parquet(folder.as_uri(), schema=schema, batch_size=128)))


def test_an_empty_file_has_no_batches(
    tmp_path: Path, schema: Schema, table: Callable[[range], pa.Table]
) -> None:
    pq.write_table(table(range(0)), tmp_path / "empty.parquet")
    data = Parquet(tmp_path, schema=schema, batch_size=8)
    assert (data.num_rows, data.num_batches, list(data)) == (0, 0, [])


# -- bad input ------------------------------------------------------------------------------------


def test_a_file_cut_anywhere_is_named_and_yields_nothing(folder: Path, schema: Schema) -> None:
    whole = (folder / "b.parquet").read_bytes()
    for kept in (0, 3, len(whole) // 2, len(whole) - 1):
        (folder / "b.parquet").write_bytes(whole[:kept])
        with pytest.raises(InvalidArgument, match=r"b\.parquet: damaged, incomplete"):
            Parquet(folder, schema=schema, batch_size=8)


def test_damage_within_a_file_is_an_error_that_names_the_row_group(
    folder: Path, schema: Schema
) -> None:
    path = folder / "a.parquet"
    data = bytearray(path.read_bytes())
    chunk = pq.ParquetFile(path).metadata.row_group(2).column(0)
    begin = chunk.dictionary_page_offset or chunk.data_page_offset
    data[begin : begin + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    path.write_bytes(data)
    batches = iter(Parquet(folder, schema=schema, batch_size=70, readers=3))
    assert len([next(batches), next(batches)]) == 2
    with pytest.raises(EmberyError, match=r"a\.parquet, row group 2: damaged"):
        next(batches)


def test_a_file_of_another_schema_is_named(folder: Path, schema: Schema) -> None:
    odd = pq.read_table(folder / "b.parquet").drop_columns("u")
    pq.write_table(odd, folder / "b.parquet")
    with pytest.raises(InvalidArgument, match=r"b\.parquet: no column 'u'"):
        Parquet(folder, schema=schema, batch_size=8)


@pytest.mark.parametrize("statistics", [True, False])
def test_null_labels_are_refused_before_anything_is_read(tmp_path: Path, statistics: bool) -> None:
    labels = pa.array([1] * 50 + [None] + [0] * 49, pa.int8())
    pq.write_table(
        pa.table({"y": labels}), tmp_path / "n.parquet",
        row_group_size=30, write_statistics=statistics,
    )  # fmt: skip
    with pytest.raises(InvalidArgument, match=r"n\.parquet, row group 1: 1 of the labels in col"):
        Parquet(tmp_path, schema=Schema(label="y"), batch_size=8)


def test_the_same_column_may_have_another_width_in_another_file(
    tmp_path: Path, rows_of: RowsOf
) -> None:
    for name, kind in (("a", pa.int32()), ("b", pa.int64())):
        columns = {"y": pa.array([0, 1], pa.int8()), "u": pa.array([3, 4], kind)}
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    data = Parquet(tmp_path, schema=Schema(label="y", sparse=["u"]), batch_size=4)
    assert [rows_of(b) for b in data] == [[3, 4, 3, 4]]
