"""Paths, folders and globs name files; nothing found is an error."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyarrow import fs as pafs

from embery.data.files import reading, resolve
from embery.errors import InvalidArgument, Unavailable

SUFFIXES = (".parquet",)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b.parquet", "a.parquet", "x/c.parquet", "x/y/d1.parquet", "note.txt",
                 "_tmp/e.parquet", ".hidden.parquet", "x[1].parquet"):  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def found(tree: Path, *paths: str) -> list[str]:
    _, files = resolve([str(tree / p) for p in paths], filesystem=None, suffixes=SUFFIXES)
    return [str(Path(f).relative_to(tree)) for f in files]


@pytest.mark.parametrize(
    ("path", "files"),
    [
        ("a.parquet", ["a.parquet"]),
        ("note.txt", ["note.txt"]),
        ("", ["a.parquet", "b.parquet", "x/c.parquet", "x/y/d1.parquet", "x[1].parquet"]),
        ("x", ["x/c.parquet", "x/y/d1.parquet"]),
        ("?.parquet", ["a.parquet", "b.parquet"]),
        ("[!a].parquet", ["b.parquet"]),
        ("x/*", ["x/c.parquet"]),
        ("x/**", ["x/c.parquet", "x/y/d1.parquet"]),
        ("**/[cd]*.parquet", ["x/c.parquet", "x/y/d1.parquet"]),
        ("*/y/d?.parquet", ["x/y/d1.parquet"]),
    ],
)
def test_a_path_names_files_in_order(tree: Path, path: str, files: list[str]) -> None:
    assert found(tree, path) == files


def test_several_paths_keep_their_order(tree: Path) -> None:
    assert found(tree, "b.parquet", "x/*", "a.parquet") == ["b.parquet", "x/c.parquet", "a.parquet"]


def test_a_relative_path_and_a_uri_are_understood(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree)
    local = resolve("x/*.parquet", filesystem=None, suffixes=SUFFIXES)
    uri = resolve(tree.as_uri() + "/x/*.parquet", filesystem=None, suffixes=SUFFIXES)
    assert local == uri == (pafs.LocalFileSystem(), [str(tree / "x/c.parquet")])


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("absent.parquet", "absent.parquet: no file"),
        ("*.orc", r"\*.orc: no file matches"),
        ("absent/*.parquet", "no file matches"),
    ],
)
def test_what_is_not_there_is_named(tree: Path, path: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        found(tree, path)


def test_no_paths_at_all_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="no paths were given"):
        resolve([], filesystem=None, suffixes=SUFFIXES)


def test_an_unknown_kind_of_uri_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="nowhere://x"):
        resolve("nowhere://x/y", filesystem=None, suffixes=SUFFIXES)


def test_failures_of_the_system_are_unavailable_and_damage_is_not() -> None:
    with pytest.raises(Unavailable, match="f: cannot be read"), reading("f"):
        raise OSError(5, "Input/output error")
    with pytest.raises(InvalidArgument, match="f: damaged"), reading("f"):
        raise OSError("Truncated compressed stream")
