"""A full disk while saving: a clear error, nothing left behind, earlier checkpoints unharmed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embery as em
from embery import checkpoint

FULL_BYTES = 1 << 20


class _Rows:
    def __init__(self, rows: int) -> None:
        self.definition = em.Table("item", dim=64, optimizer=em.optim.SGD()).to_dict()
        self.value_bytes, self.state_floats, self.row_count = 256, 0, rows

    def export_rows(self, slot_begin: int, slot_end: int, since: Any) -> dict[str, Any]:
        count = self.row_count * (slot_end - slot_begin) // 4096
        u32 = np.zeros(count, np.uint32)
        return {
            "key": np.arange(count, dtype=np.uint64),
            "count": u32,
            "step": u32,
            "time_s": u32,
            "lsn": np.zeros(count, np.uint64),
            "values": np.zeros((count, 256), np.uint8),
            "state": np.zeros((count, 0), np.float32),
        }

    def export_state(self, since: Any) -> Any:
        return {}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None:
        pytest.skip("there is no mount command")
    command = [mount, "-t", "tmpfs", "-o", f"size={FULL_BYTES}", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def refuse_a_large_checkpoint(dest: Path) -> None:
    checkpoint.write(dest, [_Rows(0)], state={"good": 1})
    with pytest.raises(em.ResourceExhausted) as error:
        checkpoint.write(dest, [_Rows(200_000)], state={"good": 0})
    assert str(dest / ".checkpoint-00000002.partial" / "table-0.slots-") in str(error.value)
    assert "make room" in str(error.value)
    assert [path.name for path in dest.iterdir()] == ["checkpoint-00000001"]
    assert checkpoint.open(dest).state == {"good": 1}
    assert checkpoint.write(dest, [_Rows(0)]).number == 2


def test_a_full_file_system_is_named_and_harms_nothing(small_disk: Path) -> None:
    refuse_a_large_checkpoint(small_disk)


def test_a_file_size_limit_is_named_and_harms_nothing(tmp_path: Path, small_files: Any) -> None:
    with small_files(FULL_BYTES):
        refuse_a_large_checkpoint(tmp_path)
