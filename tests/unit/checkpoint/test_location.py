"""Checkpoints on paths, file URIs and object stores."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs

import embery as em
from embery import checkpoint


@pytest.fixture
def object_store() -> str:
    """Return the URI of a folder in fsspec's file system in memory: no rename, lock or fsync."""
    pytest.importorskip("fsspec", reason="fsspec is not installed")
    uri = f"fsspec+memory://{uuid.uuid4().hex}/runs"
    try:
        fs.FileSystem.from_uri(uri)
    except ValueError as error:
        pytest.skip(f"this pyarrow has no fsspec URIs: {error}")
    return uri


def test_a_file_uri_is_the_path_it_names(tmp_path: Path, memory_table: Any) -> None:
    folder = tmp_path / "with space"
    saved = checkpoint.write(folder.as_uri(), [memory_table("item", 30)])
    assert saved.path == str(folder / "checkpoint-00000001" / "manifest.json")
    assert checkpoint.open(folder.as_uri()).tables["item"].rows == 30
    assert checkpoint.open(Path(saved.path).as_uri()).number == 1


def test_a_manifest_its_folder_and_a_folder_of_checkpoints_all_open(
    tmp_path: Path, memory_table: Any
) -> None:
    saved = checkpoint.write(tmp_path, [memory_table()])
    for src in (saved.path, os.path.dirname(saved.path), tmp_path, f"{tmp_path}/"):
        assert checkpoint.open(src).path == saved.path


def test_a_relative_path_is_found_after_the_working_folder_changed(
    tmp_path: Path, memory_table: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    saved = checkpoint.write("runs/7", [memory_table("item", 5)])
    monkeypatch.chdir("/")
    assert saved.path == str(tmp_path / "runs/7/checkpoint-00000001/manifest.json")
    assert sum(len(columns["key"]) for columns in saved.rows("item")) == 5


def test_a_moved_and_renamed_checkpoint_opens(tmp_path: Path, memory_table: Any) -> None:
    saved = checkpoint.write(tmp_path / "a", [memory_table("item", 5)])
    (tmp_path / "best").symlink_to(Path(saved.path).parent)
    assert checkpoint.open(tmp_path / "best").number == 1


def test_checkpoints_round_trip_on_an_object_store(object_store: str, memory_table: Any) -> None:
    table = memory_table("item", 400)
    saved = checkpoint.write(object_store, [table], state={"epoch": 2})
    assert saved.path == f"{object_store}/checkpoint-00000001/manifest.json"
    for src in (object_store, saved.path, saved.path.removesuffix("/manifest.json")):
        found = checkpoint.open(src)
        assert found.state == {"epoch": 2}
        loaded = memory_table()
        checkpoint.load(found, {"item": loaded})
        loaded.assert_equals(table)


def test_retention_works_on_an_object_store(object_store: str, memory_table: Any) -> None:
    for _ in range(3):
        checkpoint.write(object_store, [memory_table("item", 10)], keep=2)
    filesystem, path = fs.FileSystem.from_uri(object_store)
    left = {info.base_name for info in filesystem.get_file_info(fs.FileSelector(path))}
    assert left == {"checkpoint-00000002", "checkpoint-00000003"}
    assert checkpoint.open(object_store).number == 3


def test_without_its_manifest_a_folder_on_an_object_store_is_no_checkpoint(
    object_store: str, memory_table: Any
) -> None:
    checkpoint.write(object_store, [memory_table("item", 10)])
    saved = checkpoint.write(object_store, [memory_table("item", 10)])
    filesystem, path = fs.FileSystem.from_uri(saved.path)
    filesystem.delete_file(path)
    assert checkpoint.open(object_store).number == 1


def test_a_failed_write_on_an_object_store_leaves_nothing(
    object_store: str, memory_table: Any
) -> None:
    table = memory_table("item", 100)
    table.columns["lsn"] = table.columns["lsn"].astype("i8")
    with pytest.raises(em.InvalidArgument, match="lsn"):
        checkpoint.write(object_store, [table])
    filesystem, path = fs.FileSystem.from_uri(object_store)
    selector = fs.FileSelector(path, allow_not_found=True, recursive=True)
    assert [info for info in filesystem.get_file_info(selector) if info.is_file] == []


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("", "expected a path or URI"),
        ("nosuch://bucket/x", "no file system for 'nosuch://bucket/x'"),
        ("file://elsewhere/x", "file:///PATH of this host"),
    ],
)
def test_an_address_that_no_file_system_speaks_is_refused(address: str, message: str) -> None:
    with pytest.raises(em.InvalidArgument, match=message):
        checkpoint.write(address, [])
    with pytest.raises(em.InvalidArgument, match=message):
        checkpoint.open(address)


def test_a_destination_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(em.Unavailable, match="taken"):
        checkpoint.write(tmp_path / "taken", [])
