"""A damaged checkpoint is refused, whichever byte of whichever file it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embery as em
from embery import checkpoint

FILES = ["manifest.json", "state.arrow", "table-0.slots-0-4096.arrow", "table-0.state.arrow"]


@pytest.fixture
def small(tmp_path: Path, memory_table: Any) -> Path:
    """Return the folder of a checkpoint with each kind of file in it."""
    table = memory_table("item", 3)
    table.state = {"step": 1, "lsns": np.arange(2, dtype=np.uint64)}
    options = checkpoint.WriteOptions(group_slots=4096)
    state = {"weight": np.ones(2, np.float32), "epoch": 1}
    written = checkpoint.write(tmp_path, [table], state=state, options=options)
    folder = Path(written.path).parent
    assert sorted(path.name for path in folder.iterdir()) == FILES
    return folder


def refused(folder: Path, file: Path) -> bool:
    """Tell whether the checkpoint is refused with the name of the file in the message."""
    try:
        checkpoint.open(folder)
    except em.CheckpointCorrupt as error:
        return file.name in str(error)
    return False


def try_all(folder: Path, name: str, damages: Callable[[bytes], Iterator[bytes]]) -> None:
    file = folder / name
    whole = file.read_bytes()
    for number, damaged in enumerate(damages(whole)):
        file.write_bytes(damaged)
        assert refused(folder, file), f"{name}: damage {number} went unnoticed"
    file.write_bytes(whole)
    checkpoint.open(folder)


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_byte_is_refused(small: Path, name: str) -> None:
    def flips(whole: bytes) -> Iterator[bytes]:
        for at in range(len(whole)):
            yield whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :]

    try_all(small, name, flips)


@pytest.mark.parametrize("name", FILES)
def test_every_cut_is_refused(small: Path, name: str) -> None:
    try_all(small, name, lambda whole: (whole[:length] for length in range(len(whole))))


@pytest.mark.parametrize("name", FILES)
def test_an_appended_byte_is_refused(small: Path, name: str) -> None:
    try_all(small, name, lambda whole: (whole + bytes([tail]) for tail in (0, 10, 255)))


def test_a_missing_file_is_refused(small: Path) -> None:
    for file in sorted(small.iterdir()):
        whole = file.read_bytes()
        file.unlink()
        assert refused(small, file)
        file.write_bytes(whole)


def test_files_that_changed_places_are_refused(small: Path) -> None:
    first, second = small / "state.arrow", small / "table-0.state.arrow"
    first_bytes = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(first_bytes)
    assert refused(small, first)


def test_nothing_is_loaded_from_a_damaged_checkpoint(small: Path, memory_table: Any) -> None:
    file = small / "table-0.slots-0-4096.arrow"
    whole = bytearray(file.read_bytes())
    whole[-1] ^= 1
    file.write_bytes(whole)
    sink = memory_table("item", 11)
    before = memory_table("item", 11)
    with pytest.raises(em.CheckpointCorrupt, match="CRC-32"):
        checkpoint.load(checkpoint.open_unchecked(small), {"item": sink})
    sink.assert_equals(before)


def test_a_damaged_newest_checkpoint_is_refused_not_skipped(
    tmp_path: Path, small: Path, memory_table: Any
) -> None:
    checkpoint.write(tmp_path, [memory_table()])
    manifest = tmp_path / "checkpoint-00000002" / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:-1])
    with pytest.raises(em.CheckpointCorrupt, match="checkpoint-00000002"):
        checkpoint.open(tmp_path)
    assert checkpoint.open(small).number == 1
