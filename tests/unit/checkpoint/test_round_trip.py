"""What is saved comes back, whatever the table holds."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import embery as em
from embery import checkpoint


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
@pytest.mark.parametrize("optimizer", [em.optim.SGD(), em.optim.RowwiseAdagrad(), em.optim.Adam()])
def test_rows_come_back_for_every_dtype_and_width_of_state(
    tmp_path: Path, memory_table: Any, dtype: str, optimizer: em.optim.Optimizer
) -> None:
    saved = memory_table("item", 1000, dtype=dtype, optimizer=optimizer)
    checkpoint.write(tmp_path, [saved])
    loaded = memory_table("item", 5, dtype=dtype, optimizer=optimizer)
    checkpoint.load(checkpoint.open(tmp_path), {"item": loaded})
    loaded.assert_equals(saved)
    assert loaded.state["step"] == 7


def test_rows_are_announced_before_they_are_imported(tmp_path: Path, memory_table: Any) -> None:
    """Rows come by slot and key; a sink that grew as they came would take quadratic time."""
    checkpoint.write(tmp_path, [memory_table("item", 1000)])
    loaded = memory_table("item")
    imports: list[bool] = []

    class Sink:
        definition = loaded.definition
        clear = loaded.clear
        reserve = loaded.reserve
        import_state = loaded.import_state

        @staticmethod
        def import_rows(columns: Any) -> None:
            loaded.import_rows(columns)
            imports.append(sum(len(p["key"]) for p in loaded.parts) <= loaded.announced)

    checkpoint.load(checkpoint.open(tmp_path), {"item": Sink()}, threads=1)
    assert loaded.announced == 1000
    assert imports
    assert all(imports)


def test_several_tables_share_a_checkpoint(tmp_path: Path, memory_table: Any) -> None:
    names = ("zeta", "alpha", "μ μ")
    saved = {name: memory_table(name, 100, seed=i) for i, name in enumerate(names)}
    checkpoint.write(tmp_path, list(saved.values()))
    found = checkpoint.open(tmp_path)
    assert sorted(found.tables) == sorted(names)
    loaded = {name: memory_table(name) for name in names}
    checkpoint.load(found, loaded)
    for name in names:
        loaded[name].assert_equals(saved[name])


def test_a_group_without_rows_has_no_file_and_an_empty_table_is_restored_empty(
    tmp_path: Path, memory_table: Any
) -> None:
    saved = checkpoint.write(tmp_path, [memory_table("item", 0)])
    names = {path.name for path in Path(saved.path).parent.iterdir()}
    assert names == {"manifest.json", "table-0.state.arrow"}
    loaded = memory_table("item", 9)
    checkpoint.load(checkpoint.open(tmp_path), {"item": loaded})
    assert loaded.row_count == 0


def test_rows_are_written_and_read_in_batches_of_bounded_size(
    tmp_path: Path, memory_table: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embery.checkpoint.writer.BATCH_BYTES", 1024)
    saved = memory_table("item", 5000)
    written = checkpoint.write(tmp_path, [saved])
    sizes = [len(columns["key"]) for columns in written.rows("item")]
    assert sum(sizes) == 5000
    assert max(sizes) * (28 + 3 * 4 + 4) <= 1024


def test_any_arrow_program_can_read_the_rows(tmp_path: Path, memory_table: Any) -> None:
    saved = memory_table("item", 300)
    folder = Path(checkpoint.write(tmp_path, [saved]).path).parent
    files = sorted(folder.glob("table-0.slots-*.arrow"))
    table = pa.concat_tables(
        [pa.ipc.open_file(f).read_all().replace_schema_metadata() for f in files]
    )
    got = table.sort_by("key").to_pydict()
    assert got["key"] == saved.columns["key"].tolist()
    expected = saved.columns["values"].view(np.float32)
    np.testing.assert_array_equal(np.array(got["values"], np.float32), expected)


def test_one_slot_can_be_read_without_the_others(tmp_path: Path, memory_table: Any) -> None:
    saved = memory_table("item", 2000)
    written = checkpoint.write(tmp_path, [saved])
    slots = np.concatenate([c["key"] >> np.uint64(52) for c in written.rows("item", slot=300)])
    assert len(slots) > 0
    assert slots.min() >= 256
    assert slots.max() < 512


def test_numbers_only_grow(tmp_path: Path, memory_table: Any) -> None:
    numbers = [checkpoint.write(tmp_path, [memory_table()]).number for _ in range(3)]
    assert numbers == [1, 2, 3]
    (tmp_path / "checkpoint-00000041").mkdir()
    assert checkpoint.write(tmp_path, [memory_table()]).number == 42


def test_progress_counts_every_byte_of_the_files(tmp_path: Path, memory_table: Any) -> None:
    lock, seen = threading.Lock(), [0]

    def progress(count: int) -> None:
        with lock:
            seen[0] += count

    options = checkpoint.WriteOptions(progress=progress, threads=3, group_slots=100)
    written = checkpoint.write(tmp_path, [memory_table("item", 500)], options=options)
    assert seen[0] == sum(file.bytes for file in written.manifest.files())
    assert len(written.tables["item"].groups) == 41


def test_verifying_reports_every_byte_of_the_tables(tmp_path: Path, memory_table: Any) -> None:
    checkpoint.write(tmp_path, [memory_table("item", 500)])
    seen: list[int] = []
    found = checkpoint.open_unchecked(tmp_path)
    found.verify(progress=seen.append)
    assert sum(seen) == sum(file.bytes for file in found.manifest.files())


def test_a_checkpoint_may_have_no_tables_and_only_state(tmp_path: Path) -> None:
    written = checkpoint.write(tmp_path, [], state={"step": 3})
    assert checkpoint.open(written.path).state == {"step": 3}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"keep": 0}, "keep"),
        ({"options": checkpoint.WriteOptions(threads=0)}, "threads"),
        ({"options": checkpoint.WriteOptions(group_slots=5000)}, "group_slots"),
        ({"state": {"a": object()}}, r"state\['a'\]: expected JSON"),
    ],
)
def test_a_wrong_argument_is_refused_before_anything_is_written(
    tmp_path: Path, call: dict[str, Any], message: str
) -> None:
    dest = tmp_path / "dest"
    with pytest.raises(em.InvalidArgument, match=message):
        checkpoint.write(dest, [], **call)
    assert not dest.exists()


def test_two_tables_of_one_name_are_refused(tmp_path: Path, memory_table: Any) -> None:
    with pytest.raises(em.InvalidArgument, match="distinct"):
        checkpoint.write(tmp_path, [memory_table(), memory_table()])


def test_a_source_with_wrong_columns_leaves_nothing_behind(
    tmp_path: Path, memory_table: Any
) -> None:
    table = memory_table("item", 10)
    table.columns["lsn"] = table.columns["lsn"].astype(np.int64)
    with pytest.raises(em.InvalidArgument, match="column 'lsn': expected uint64"):
        checkpoint.write(tmp_path, [table])
    assert list(tmp_path.iterdir()) == []
