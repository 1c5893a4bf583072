"""Deltas on disk: what they build on must be there, and stays as long as it is needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import embery as em
from embery import checkpoint


def names(folder: Path) -> list[str]:
    return sorted(path.name[-2:] for path in folder.iterdir())


@pytest.fixture
def store() -> em.Store:
    store = em.connect("embedded:")
    store.create_table(em.Table("item", dim=1, initializer=em.init.Zeros()))
    store.pull("item", np.arange(300, dtype=np.uint64))
    return store


def save(store: em.Store, dest: Path, deltas: str, **options: int) -> None:
    """Save once for each letter: a delta for "d", else a full checkpoint."""
    for letter in deltas:
        store.push("item", [1, 2], np.ones((2, 1), np.float32))
        store.checkpoint(dest, delta=letter == "d", **options)  # type: ignore[arg-type]


def test_a_base_stays_as_long_as_a_delta_builds_on_it(tmp_path: Path, store: em.Store) -> None:
    save(store, tmp_path, "fdd", keep=1)
    assert names(tmp_path) == ["01", "02", "03"]
    save(store, tmp_path, "f", keep=2)
    assert names(tmp_path) == ["01", "02", "03", "04"]
    save(store, tmp_path, "d", keep=2)
    assert names(tmp_path) == ["04", "05"]
    checkpoint.open(tmp_path)


def test_nothing_is_deleted_while_a_newer_checkpoint_cannot_be_read(
    tmp_path: Path, store: em.Store, caplog: pytest.LogCaptureFixture
) -> None:
    save(store, tmp_path, "ffd")
    (tmp_path / "checkpoint-00000002" / "manifest.json").write_text("{}")
    save(store, tmp_path, "f", keep=2)
    assert names(tmp_path) == ["01", "02", "03", "04"]
    assert "deleted no old checkpoint" in caplog.text


def test_a_delta_without_its_base_is_refused(tmp_path: Path, store: em.Store) -> None:
    save(store, tmp_path, "fdd")
    (tmp_path / "checkpoint-00000001").rename(tmp_path / "elsewhere")
    with pytest.raises(em.CheckpointCorrupt, match="keep them in one folder"):
        checkpoint.open(tmp_path)


def test_a_delta_on_another_checkpoint_of_that_number_is_refused(
    tmp_path: Path, store: em.Store
) -> None:
    save(store, tmp_path / "a", "fd")
    save(store, tmp_path / "b", "f")
    (tmp_path / "a" / "checkpoint-00000001").rename(tmp_path / "old")
    (tmp_path / "b" / "checkpoint-00000001").rename(tmp_path / "a" / "checkpoint-00000001")
    with pytest.raises(em.CheckpointCorrupt, match="took the place"):
        checkpoint.open(tmp_path / "a")


def test_every_damage_of_a_chain_is_refused_and_nothing_is_restored(
    tmp_path: Path, store: em.Store
) -> None:
    save(store, tmp_path, "fdd")
    other = em.connect("embedded:")
    other.create_table(em.Table("item", dim=1, initializer=em.init.Constant(3.0)))
    for file in sorted(tmp_path.glob("*/*")):
        whole = file.read_bytes()
        step = max(1, len(whole) // 8)
        for at in range(0, len(whole), step):
            for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 64]) + whole[at + 1 :]):
                file.write_bytes(damaged)
                with pytest.raises(em.CheckpointCorrupt):
                    other.restore(tmp_path)
        file.unlink()
        with pytest.raises((em.CheckpointCorrupt, em.SchemaMismatch)):
            other.restore(tmp_path)
        file.write_bytes(whole)
    assert other.stats()["tables"]["item"]["rows"] == 0
