"""Which version is served, and that what is served stays when another is damaged."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from embery.errors import CheckpointCorrupt, InvalidArgument
from embery.serving.versions import CURRENT, MANIFEST, Versions, Watcher

DEADLINE_S = 30


@pytest.fixture
def load(doubling: Callable[[int], Any]) -> Callable[[Path], Any]:
    """Return what opens a folder that `put` has made."""

    def load_one(folder: Path) -> Any:
        text = (folder / MANIFEST).read_text()
        if not text.isdecimal():
            raise CheckpointCorrupt(f"{folder}: expected a number, got {text!r}")
        return doubling(int(text))

    return load_one


def put(folder: Path, version: int, text: str | None = None) -> Path:
    """Put a version there, whole at once."""
    made = folder / f".making-{version}"
    made.mkdir(parents=True)
    (made / MANIFEST).write_text(str(version) if text is None else text)
    return made.rename(folder / f"bundle-{version:08}")


def name_current(folder: Path, name: str) -> None:
    """Let CURRENT name a version, by a rename."""
    (folder / ".current").write_text(f"{name}\n")
    (folder / ".current").rename(folder / CURRENT)


def test_the_newest_is_served_and_newer_ones_as_they_come(tmp_path: Path, load: Any) -> None:
    for version in (9, 10, 2):
        put(tmp_path, version)
    (tmp_path / "bundle-00000077").mkdir()
    versions = Versions(tmp_path, load)
    assert versions.current().version == 10
    old = versions.current()
    versions.refresh()
    assert versions.current() is old
    put(tmp_path, 11)
    versions.refresh()
    assert versions.current().version == 11
    assert (versions.switches, versions.failures) == (2, 0)


def test_a_damaged_version_is_passed_over_once(tmp_path: Path, load: Any) -> None:
    put(tmp_path, 1)
    versions = Versions(tmp_path, load)
    served = versions.current()
    put(tmp_path, 3, "damaged")
    for _ in range(3):
        versions.refresh()
        assert versions.current() is served
    assert versions.failures == 1
    put(tmp_path, 2)
    versions.refresh()
    assert versions.current().version == 2
    # Put right, it is tried again.
    (tmp_path / "repaired").write_text("3")
    (tmp_path / "repaired").rename(tmp_path / "bundle-00000003" / MANIFEST)
    versions.refresh()
    assert versions.current().version == 3


def test_a_failure_of_any_kind_leaves_what_is_served(tmp_path: Path, load: Any) -> None:
    def failing(folder: Path) -> Any:
        if folder.name.endswith("2"):
            raise RuntimeError("of a library")
        return load(folder)

    put(tmp_path, 1)
    versions = Versions(tmp_path, failing)
    put(tmp_path, 2)
    versions.refresh()
    assert (versions.current().version, versions.failures) == (1, 1)


def test_a_file_names_another_version_and_its_end_ends_the_rollback(
    tmp_path: Path, load: Any
) -> None:
    old = put(tmp_path, 1)
    put(tmp_path, 2)
    versions = Versions(tmp_path, load)
    name_current(tmp_path, old.name)
    versions.refresh()
    assert versions.current().version == 1
    put(tmp_path, 3)
    versions.refresh()
    assert versions.current().version == 1
    (tmp_path / CURRENT).unlink()
    versions.refresh()
    assert versions.current().version == 3


@pytest.mark.parametrize("name", ["bundle-00000009", "", "..", "../other"])
def test_a_file_that_names_nothing_leaves_what_is_served(
    tmp_path: Path, load: Any, name: str
) -> None:
    put(tmp_path, 1)
    versions = Versions(tmp_path, load)
    name_current(tmp_path, name)
    put(tmp_path, 2)
    versions.refresh()
    assert versions.current().version == 1
    with pytest.raises((CheckpointCorrupt, InvalidArgument)):
        Versions(tmp_path, load)


def test_a_link_to_a_bundle_may_be_turned(tmp_path: Path, load: Any) -> None:
    first, second = put(tmp_path / "all", 1), put(tmp_path / "all", 2)
    link = tmp_path / "ctr"
    link.symlink_to(first)
    versions = Versions(link, load)
    assert versions.current().version == 1
    (tmp_path / "new").symlink_to(second)
    os.replace(tmp_path / "new", link)
    versions.refresh()
    assert versions.current().version == 2


def test_nothing_to_serve_is_one_clear_error(tmp_path: Path, load: Any) -> None:
    with pytest.raises(InvalidArgument, match="expected a bundle"):
        Versions(tmp_path, load)
    with pytest.raises(InvalidArgument, match="No such file"):
        Versions(tmp_path / "nowhere", load)
    put(tmp_path, 1, "damaged")
    with pytest.raises(CheckpointCorrupt, match="damaged"):
        Versions(tmp_path, load)


def test_a_watcher_finds_versions_by_itself(tmp_path: Path, load: Any) -> None:
    loaded: list[int] = []

    def noting(folder: Path) -> Any:
        model = load(folder)
        loaded.append(model.version)
        return model

    put(tmp_path, 1)
    versions = Versions(tmp_path, noting)
    watcher = Watcher(versions, 0.01)
    watcher.start()
    try:
        put(tmp_path, 2)
        assert versions.wait_for(2, DEADLINE_S)
    finally:
        watcher.stop()
    assert loaded == [1, 2]
