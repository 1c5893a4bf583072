"""A folder appears whole or not at all, and one writer at a time makes it."""

from __future__ import annotations

from pathlib import Path

import pytest

import embery as em
from embery.serving.folder import appearing_folder, write_file


def test_it_appears_at_the_end(tmp_path: Path) -> None:
    dest = tmp_path / "a" / "b"
    with appearing_folder(dest) as folder:
        write_file(folder / "x", b"1")
        assert not dest.exists()
    assert [path.name for path in dest.parent.iterdir()] == ["b"]
    assert (dest / "x").read_bytes() == b"1"


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(em.Unavailable), appearing_folder(tmp_path / "b") as folder:
        write_file(folder / "x" / "y", b"1")
    assert not list(tmp_path.iterdir())


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".b.partial").mkdir()
    (tmp_path / ".b.partial" / "old").write_bytes(b"1")
    with appearing_folder(tmp_path / "b") as folder:
        write_file(folder / "new", b"1")
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["new"]


def test_a_second_writer_is_turned_away(tmp_path: Path) -> None:
    with appearing_folder(tmp_path / "b") as folder:
        write_file(folder / "x", b"1")
        with (
            pytest.raises(em.Unavailable, match="another export"),
            appearing_folder(tmp_path / "b"),
        ):
            pass
        with appearing_folder(tmp_path / "c"):
            pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "c"]
    assert (tmp_path / "b" / "x").exists()
