"""A bundle written by the first version of the format is read by every later one.

`tests/golden/bundle-v1` was written once, by exporting the model of conftest.py, and is never
written again: if this test fails, the reader is wrong, not the files. A new version of the format
gets a folder of its own beside it.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from embery.serving import manifest as manifests
from embery.serving.bundle import Bundle
from embery.serving.examples import Examples
from embery.serving.table_file import TableLayout, write_table

GOLDEN = Path(__file__).parents[2] / "golden" / "bundle-v1"


def test_it_opens_and_scores_its_examples() -> None:
    bundle = Bundle.open(GOLDEN, verify=True)
    assert bundle.scorer().version == 1
    assert [(t.name, t.dtype, t.dim) for t in bundle.manifest.tables] == [
        ("item", "float16", 6),
        ("user", "float32", 3),
    ]
    assert [len(collection.features) for collection in bundle.manifest.collections] == [2, 1]


def test_writing_gives_the_same_bytes(tmp_path: Path) -> None:
    bundle = Bundle.open(GOLDEN)
    data = (GOLDEN / "manifest.json").read_bytes()
    assert manifests.encode(manifests.decode(data, "golden")) == data
    examples = (GOLDEN / "examples.json").read_bytes()
    assert Examples.decode(examples, "golden").encode() == examples
    for entry in bundle.manifest.tables:
        # Read by the words of docs/formats/bundle.md, not by our decoder.
        table = (GOLDEN / entry.file.name).read_bytes()
        magic, version, kind, dim, row_bytes, rows, buckets, _ = struct.unpack_from(
            "<8s4I3Q", table
        )
        assert (magic, version, dim, rows) == (b"EMBERYTB", 1, entry.dim, entry.rows)
        assert kind == ["float32", "float16"].index(entry.dtype)
        keys_begin = -(-(4096 + 4 * (buckets + 1)) // 4096) * 4096
        values_begin = -(-(keys_begin + 8 * rows) // 4096) * 4096
        keys = np.frombuffer(table, np.uint64, rows, keys_begin)
        values = np.frombuffer(table, np.uint8, rows * row_bytes, values_begin)
        values = values.reshape(rows, row_bytes)
        layout = TableLayout(entry.name, entry.dtype, entry.dim, rows)
        written = write_table(
            tmp_path / entry.file.name, layout, lambda k=keys, v=values: iter([(k, v)])
        )
        assert written == entry.file


@pytest.mark.parametrize(("key", "first"), [(0, True), (99, True), (1000, False)])
def test_its_rows_are_where_they_were(key: int, first: bool) -> None:
    row = Bundle.open(GOLDEN).tables()["item"].lookup(np.array([key]))
    assert row.any() == first
