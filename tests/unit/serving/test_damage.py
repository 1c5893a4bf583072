"""A damaged bundle is refused with the name of the file, before it scores anything."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embery as em
from embery.checkpoint.sealed import seal
from embery.serving.bundle import Bundle
from embery.serving.table_file import TableLayout, write_table

NAMES = ["manifest.json", "examples.json", "dense.onnx", "dense.pt2", "table-0.rows"]


@pytest.fixture
def copy(bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle.path, tmp_path / "copy"))


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _flip(data: bytes) -> bytes:
    return data[:100] + bytes([data[100] ^ 1]) + data[101:]


def _empty(data: bytes) -> bytes:
    return data[:0]


def _longer(data: bytes) -> bytes:
    return data + b"\0"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("damage", [_cut, _flip, _empty, _longer])
def test_damage_is_found_and_named(copy: Path, name: str, damage: Callable[[bytes], bytes]) -> None:
    path = copy / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(em.CheckpointCorrupt, match=name):
        Bundle.open(copy, verify=True)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(em.CheckpointCorrupt, match=name):
        Bundle.open(copy)


def test_small_files_are_verified_whenever_a_bundle_is_opened(copy: Path) -> None:
    for name in NAMES[:-1]:
        path = copy / name
        before = path.read_bytes()
        path.write_bytes(_flip(before))
        with pytest.raises(em.CheckpointCorrupt, match=name):
            Bundle.open(copy)
        path.write_bytes(before)
    # The page of a table's header that is no part of it is read by `verify` alone.
    table = copy / NAMES[-1]
    table.write_bytes(_flip(table.read_bytes()))
    with pytest.raises(em.CheckpointCorrupt, match="table-0"):
        Bundle.open(copy).verify()


def test_every_byte_of_a_manifest_is_under_its_seal(copy: Path) -> None:
    path = copy / "manifest.json"
    data = path.read_bytes()
    for at in range(0, len(data), 7):
        path.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        with pytest.raises(em.CheckpointCorrupt, match=r"manifest\.json"):
            Bundle.open(copy)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"version": 1', '"version": 2', "expected format version 1, got 2"),
        ('"embery-bundle"', '"embery-other"', "embery-other"),
        ('"model_version": 1', '"model_version": -1', "model_version"),
        ('"meaning": "logits"', '"meaning": "odds"', "odds"),
        ('"pooling": "mean"', '"pooling": null', "pooling"),
        ('"name": "table-0.rows"', '"name": "../table-0.rows"', "file name"),
        ('"table": "user"', '"table": "nobody"', "nobody"),
        ('"hash_seed": 7', '"hash_seed": -7', "hash_seed"),
    ],
)
def test_a_manifest_that_does_not_make_sense_is_refused(
    copy: Path, old: str, new: str, message: str
) -> None:
    path = copy / "manifest.json"
    text = path.read_text().rpartition(",\n")[0] + "\n}"
    assert old in text
    path.write_bytes(seal(text.replace(old, new, 1)))
    with pytest.raises(em.CheckpointCorrupt, match=message):
        Bundle.open(copy)


def test_rows_that_were_changed_are_seen_by_the_examples(copy: Path) -> None:
    path = copy / "table-0.rows"
    data = bytearray(path.read_bytes())
    data[3 * 4096 :] = bytes(len(data) - 3 * 4096)
    path.write_bytes(data)
    with pytest.raises(em.CheckpointCorrupt, match="score otherwise than in training"):
        Bundle.open(copy).scorer()


def test_another_table_in_its_place_is_refused(copy: Path) -> None:
    for name in ("table-0.rows", "table-1.rows"):
        assert (copy / name).exists()
    (copy / "table-0.rows").write_bytes((copy / "table-1.rows").read_bytes())
    with pytest.raises(em.CheckpointCorrupt, match=r"table-0\.rows"):
        Bundle.open(copy).scorer()


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(em.CheckpointCorrupt, match="expected a file of a bundle"):
            Bundle.open(path)


def test_a_full_disk_is_named_and_leaves_nothing(
    trained: Any, tmp_path: Path, small_files: Any
) -> None:
    with small_files(8192), pytest.raises(em.ResourceExhausted, match="make room"):
        trained.export(tmp_path / "b")
    assert not list(tmp_path.iterdir())


def test_a_table_too_large_for_the_format_is_refused(tmp_path: Path) -> None:
    layout = TableLayout("item", "float32", 1, 2**32)
    with pytest.raises(em.InvalidArgument, match="at most 4294967294 rows"):
        write_table(
            tmp_path / "t",
            layout,
            lambda: iter([(np.empty(0, np.uint64), np.empty((0, 4), np.uint8))]),
        )
    assert not list(tmp_path.iterdir())
