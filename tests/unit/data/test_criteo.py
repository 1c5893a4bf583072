"""The Criteo TSV layout: streamed, resumed, and bad lines named."""

from __future__ import annotations

import gzip
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from embery.data import Batch, CriteoTSV, Schema
from embery.errors import EmberyError, InvalidArgument

Same = Callable[[list[Batch], list[Batch]], None]


def line(number: int) -> str:
    integers = ["" if (number + j) % 5 == 0 else str(number - 2 + j) for j in range(13)]
    hashes = ["" if (number + c) % 7 == 0 else f"{number * 100 + c:08x}" for c in range(26)]
    return "\t".join([str(number % 2), *integers, *hashes]) + "\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "a.tsv").write_text("".join(map(line, range(700))))
    with gzip.open(tmp_path / "b.tsv.gz", "wt") as file:
        file.writelines(map(line, range(700, 1000)))
    return tmp_path


@pytest.fixture
def many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embery.data.criteo._BLOCK_BYTES", 4096)


def test_a_line_is_read_as_the_layout_says(path: Path) -> None:
    first = next(iter(CriteoTSV(path, batch_size=2)))
    assert first.label.tolist() == [0, 1]
    assert first.dense is not None
    assert first.sparse is not None
    # Row 0: I1 is missing, I2 is -1, I3 is 0, I4 is 1; C1 is missing, C2 is 00000001.
    assert first.dense[0, :4].tolist() == pytest.approx([0, 0, 0, math.log(2)])
    assert first.sparse["C1"].lengths().tolist() == [0, 1]
    assert first.sparse["C1"].values().tolist() == [100]
    assert first.sparse["C2"].values().tolist() == [1, 101]
    assert first.sparse.keys() == [f"C{i}" for i in range(1, 27)]


@pytest.mark.usefixtures("many_blocks")
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("start", [0, 1, 5, 9, 10])
def test_a_stream_resumed_at_a_batch_goes_on_bit_for_bit(
    path: Path, assert_same_batches: Same, shuffle: bool, start: int
) -> None:
    data = CriteoTSV(path, batch_size=100, shuffle=shuffle, shuffle_rows=300, seed=3)
    assert data.num_rows is None
    whole = list(data.batches(epoch=1))
    assert len(whole) == 10
    assert_same_batches(whole[start:], list(data.batches(epoch=1, start=start)))


def test_a_schema_may_take_some_of_the_columns(path: Path) -> None:
    schema = Schema(label="label", dense=["I3"], sparse=["C2"])
    batch = next(iter(CriteoTSV(path / "a.tsv", schema=schema, batch_size=3)))
    assert batch.dense is not None
    assert batch.sparse is not None
    assert batch.dense.tolist() == [[0], [1], [2]]
    assert batch.sparse.values().tolist() == [1, 101, 201]


def test_a_column_that_the_layout_lacks_is_refused(path: Path) -> None:
    with pytest.raises(InvalidArgument, match="the Criteo TSV layout: no column 'C27'"):
        CriteoTSV(path, schema=Schema(label="label", sparse=["C27"]), batch_size=3)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("1\t2\t3\n", "Expected 40 columns, got 3"),
        (line(3).replace("1\t", "x\t", 1), "conversion error to int64"),
        (line(3).replace("0000012c", "0000g12c"), "column 'C1', from row 0 on: string 3 is not"),
        (line(2)[1:], "column 'label', row 3: a label must not be null"),
    ],
)
def test_a_bad_line_is_an_error_that_names_the_file(tmp_path: Path, bad: str, message: str) -> None:
    path = tmp_path / "bad.tsv"
    path.write_text(line(1) + line(2) + line(4) + bad)
    with pytest.raises(InvalidArgument, match=rf"bad\.tsv.*{message}"):
        list(CriteoTSV(path, batch_size=2))


@pytest.mark.usefixtures("no_threads_left")
def test_a_truncated_archive_is_an_error_that_names_the_file(path: Path) -> None:
    archive = path / "b.tsv.gz"
    archive.write_bytes(archive.read_bytes()[:-200])
    with pytest.raises(EmberyError, match=r"b\.tsv\.gz: damaged"):
        list(CriteoTSV(path, batch_size=100))
