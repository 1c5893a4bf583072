"""Data of another program, version or table is refused with a message that says which."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import embery as em
from embery import checkpoint
from embery.checkpoint import manifest as manifests


@pytest.fixture
def folder(tmp_path: Path, memory_table: Any) -> Path:
    options = checkpoint.WriteOptions(group_slots=2048)
    written = checkpoint.write(tmp_path, [memory_table("item", 50)], options=options)
    return Path(written.path).parent


def reseal(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change members of the manifest and seal it again, as another version's writer could."""
    path = folder / "manifest.json"
    members = json.loads(path.read_text())
    del members["sha256"]
    change(members)
    body = json.dumps(members, indent=1).removesuffix("\n}").encode()
    seal = f',\n"sha256": "{hashlib.sha256(body).hexdigest()}"\n}}\n'
    path.write_bytes(body + seal.encode())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 3}, "expected format version 1 or 2, got 3"),
        ({"version": 2}, "'base_seal'"),
        ({"base_seal": "0"}, "unknown members .'base_seal'. in a full"),
        ({"version": True}, "version = True"),
        ({"format": "other"}, "expected format 'embery-checkpoint', got 'other'"),
        ({"slots": 8192}, "expected slots 4096, got 8192"),
        ({"slot_hash": 2}, "expected slot_hash 1, got 2"),
        ({"kind": "delta", "base": 3}, "kind 'delta' on base 3, expected 'full'"),
        ({"number": 0}, "number 0"),
        ({"tables": 5}, "tables = 5"),
        ({"state": []}, r"state = \[\]"),
        ({"surprise": 1}, "unknown members .'surprise'."),
    ],
)
def test_a_manifest_that_says_something_else_is_refused(
    folder: Path, change: dict[str, Any], message: str
) -> None:
    reseal(folder, lambda members: members.update(change))
    with pytest.raises(em.CheckpointCorrupt, match=message) as error:
        checkpoint.open(folder)
    assert "manifest.json" in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": 51}, "51 rows, which its groups do not"),
        ({"name": "other"}, "definition of another"),
        ({"value_bytes": -1}, "value_bytes = -1"),
        (
            {"value_bytes": 16},
            "expected 12 value bytes a row for dtype 'float32' and dim 3, got 16",
        ),
        ({"definition": {"name": "item"}}, "dtype"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(
    folder: Path, change: dict[str, Any], message: str
) -> None:
    reseal(folder, lambda members: members["tables"][0].update(change))
    with pytest.raises(em.CheckpointCorrupt, match=message):
        checkpoint.open(folder)


def test_overlapping_groups_are_refused(folder: Path) -> None:
    reseal(folder, lambda members: members["tables"][0]["groups"][1].update(slot_begin=1000))
    with pytest.raises(em.CheckpointCorrupt, match="slots 1000-4096"):
        checkpoint.open(folder)


def test_a_file_outside_the_folder_is_refused(folder: Path) -> None:
    def escape(members: dict[str, Any]) -> None:
        members["tables"][0]["state"]["name"] = "../state.arrow"

    reseal(folder, escape)
    with pytest.raises(em.CheckpointCorrupt, match="file name"):
        checkpoint.open(folder)


def test_a_row_count_that_the_file_does_not_have_is_refused(folder: Path) -> None:
    def move_a_row(members: dict[str, Any]) -> None:
        groups = members["tables"][0]["groups"]
        groups[0]["rows"] += 1
        groups[1]["rows"] -= 1

    reseal(folder, move_a_row)
    with pytest.raises(em.CheckpointCorrupt, match=r"slots-\d+-\d+.arrow: expected \d+ rows, got"):
        checkpoint.open(folder)


def test_rows_in_the_place_of_another_group_are_refused(folder: Path) -> None:
    def swap(members: dict[str, Any]) -> None:
        first, second = members["tables"][0]["groups"]
        first["file"], second["file"] = second["file"], first["file"]
        first["rows"], second["rows"] = second["rows"], first["rows"]

    reseal(folder, swap)
    with pytest.raises(em.CheckpointCorrupt, match="expected the schema"):
        checkpoint.open(folder)


def test_a_file_of_another_format_under_a_true_checksum_is_refused(folder: Path) -> None:
    content = b"not an Arrow file at all"
    (folder / "table-0.state.arrow").write_bytes(content)

    def adopt(members: dict[str, Any]) -> None:
        state = members["tables"][0]["state"]
        state.update(bytes=len(content), crc32=f"{zlib.crc32(content):08x}")

    reseal(folder, adopt)
    with pytest.raises(em.CheckpointCorrupt, match=r"table-0.state.arrow: expected an Arrow"):
        checkpoint.open(folder)


def test_rows_in_place_of_a_tree_are_refused(folder: Path) -> None:
    content = (folder / "table-0.slots-0-2048.arrow").read_bytes()
    (folder / "table-0.state.arrow").write_bytes(content)

    def adopt(members: dict[str, Any]) -> None:
        state = members["tables"][0]["state"]
        state.update(bytes=len(content), crc32=f"{zlib.crc32(content):08x}")

    reseal(folder, adopt)
    with pytest.raises(em.CheckpointCorrupt, match="expected the schema of a tree file"):
        checkpoint.open(folder)


def test_a_folder_of_another_program_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"weights")
    with pytest.raises(em.CheckpointCorrupt, match=r"expected 'manifest.json'.*got \['model.pt'\]"):
        checkpoint.open(tmp_path)
    with pytest.raises(em.CheckpointCorrupt, match="got another file"):
        checkpoint.open(tmp_path / "model.pt")
    with pytest.raises(em.CheckpointCorrupt, match="got nothing"):
        checkpoint.open(tmp_path / "absent")


def test_a_manifest_of_another_program_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"name": "a web app"}\n')
    with pytest.raises(em.CheckpointCorrupt, match=r"manifest.json: expected a manifest of"):
        checkpoint.open(tmp_path)


def test_another_table_definition_is_refused_before_anything_changes(
    folder: Path, memory_table: Any
) -> None:
    found = checkpoint.open(folder)
    other = memory_table("item", 4, optimizer=em.optim.RowwiseAdagrad(lr=0.5))
    with pytest.raises(em.SchemaMismatch, match="table 'item': expected optimizer = "):
        checkpoint.load(found, {"item": other})
    with pytest.raises(em.SchemaMismatch, match=r"expected the tables \['item', 'more'\]"):
        checkpoint.load(found, {"item": memory_table(), "more": memory_table("more")})
    assert other.row_count == 4


def test_an_unknown_table_is_named_beside_the_known_ones(folder: Path) -> None:
    with pytest.raises(em.TableNotFound, match=r"no table 'user'.*\['item'\]"):
        next(checkpoint.open(folder).rows("user"))


def test_the_manifest_codec_round_trips(folder: Path) -> None:
    data = (folder / "manifest.json").read_bytes()
    manifest = manifests.decode(data, "here")
    assert manifests.encode(manifest) == data
    moved = dataclasses.replace(manifest, number=99)
    assert manifests.decode(manifests.encode(moved), "here") == moved
