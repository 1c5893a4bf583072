"""Old checkpoints go, newest ones and foreign files stay."""

from __future__ import annotations

import fcntl
import logging
import os
from pathlib import Path
from typing import Any

import pytest

import embery as em
from embery import checkpoint


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_last_n_are_kept(tmp_path: Path, memory_table: Any) -> None:
    for _ in range(4):
        checkpoint.write(tmp_path, [memory_table("item", 20)], keep=2)
    assert names(tmp_path) == ["checkpoint-00000003", "checkpoint-00000004"]
    assert checkpoint.open(tmp_path).number == 4
    assert checkpoint.open(tmp_path / "checkpoint-00000003").number == 3


def test_without_keep_all_stay(tmp_path: Path, memory_table: Any) -> None:
    for _ in range(3):
        checkpoint.write(tmp_path, [memory_table()])
    assert len(names(tmp_path)) == 3


def test_what_a_cut_deletion_left_is_cleared(tmp_path: Path, memory_table: Any) -> None:
    for _ in range(2):
        checkpoint.write(tmp_path, [memory_table("item", 20)])
    (tmp_path / "checkpoint-00000001" / "manifest.json").unlink()
    checkpoint.write(tmp_path, [memory_table()], keep=2)
    assert names(tmp_path) == ["checkpoint-00000002", "checkpoint-00000003"]


def test_foreign_files_are_never_deleted(
    tmp_path: Path, memory_table: Any, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint.write(tmp_path, [memory_table("item", 20)])
    (tmp_path / "checkpoint-00000001" / "notes.txt").write_text("keep me")
    (tmp_path / "checkpoint-final").mkdir()
    (tmp_path / "events.out").write_text("tensorboard")
    with caplog.at_level(logging.WARNING):
        checkpoint.write(tmp_path, [memory_table()], keep=1)
    assert names(tmp_path) == [
        "checkpoint-00000001",
        "checkpoint-00000002",
        "checkpoint-final",
        "events.out",
    ]
    assert names(tmp_path / "checkpoint-00000001") == ["notes.txt"]
    assert "kept the folder of a deleted checkpoint for its foreign files" in caplog.text


def test_a_checkpoint_that_cannot_be_deleted_does_not_fail_the_save(
    tmp_path: Path,
    memory_table: Any,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checkpoint.write(tmp_path, [memory_table()])

    def refuse(self: Path) -> None:
        raise PermissionError(1, "Operation not permitted", str(self))

    monkeypatch.setattr(Path, "unlink", refuse)
    saved = checkpoint.write(tmp_path, [memory_table()], keep=1)
    assert checkpoint.open(saved.path).number == 2
    assert "cannot delete an old checkpoint" in caplog.text


def test_a_partial_folder_of_a_dead_writer_is_no_checkpoint_and_is_removed(
    tmp_path: Path, memory_table: Any
) -> None:
    checkpoint.write(tmp_path, [memory_table()])
    left = tmp_path / ".checkpoint-00000002.partial"
    os.rename(tmp_path / "checkpoint-00000001", left)
    with pytest.raises(em.CheckpointCorrupt, match="never completed"):
        checkpoint.open(tmp_path)
    assert checkpoint.newest(tmp_path) is None
    saved = checkpoint.write(tmp_path, [memory_table()])
    assert not left.exists()
    assert checkpoint.newest(tmp_path) == saved.path


def test_a_second_writer_is_turned_away_and_harms_nothing(
    tmp_path: Path, memory_table: Any
) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        (tmp_path / ".checkpoint-00000001.partial").mkdir()
        with pytest.raises(em.Unavailable, match="another checkpoint is being written"):
            checkpoint.write(tmp_path, [memory_table()])
        assert names(tmp_path) == [".checkpoint-00000001.partial"]
    finally:
        os.close(descriptor)
