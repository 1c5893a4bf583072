"""From paths, folders, globs and URIs to files; errors that name the file."""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import pyarrow as pa
from pyarrow import fs as pafs

from embery.data.interface import filesystem_of_uri
from embery.errors import InvalidArgument, Unavailable

PathLike = str | os.PathLike[str]


class _Glob(NamedTuple):
    """What whole paths must match, and whether they may lie below the folder's own files."""

    pattern: re.Pattern[str]
    is_deep: bool


@contextmanager
def reading(where: str) -> Generator[None, None, None]:
    """Turn Arrow's errors into Embery's that name `where`.

    Raises:
        InvalidArgument: the contents are damaged, incomplete or of another format.
        Unavailable: the operating system or the network failed.
    """
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        text = " ".join(str(error).split())
        if isinstance(error, OSError) and error.errno is not None:
            raise Unavailable(f"{where}: cannot be read: {text}") from error
        raise InvalidArgument(
            f"{where}: damaged, incomplete or not of this format: {text}"
        ) from error


def resolve(
    paths: PathLike | Sequence[PathLike],
    *,
    filesystem: pafs.FileSystem | None,
    suffixes: tuple[str, ...],
) -> tuple[pafs.FileSystem, list[str]]:
    """Return the filesystem and the files that `paths` mean.

    Args:
        paths: a file, a folder (its files with one of `suffixes`, at any depth, but for names that
            begin with "." or "_"; sorted), a glob ("*", "?" and "[...]" within a name, "**" across
            folders; sorted), or several of these, in the order given. Without `filesystem` also
            URIs, such as s3://bucket/folder.
        filesystem: the Arrow filesystem of the paths; None means the local one, or the URIs' own.
        suffixes: endings of the files taken from a folder.

    Raises:
        InvalidArgument: nothing is there, or the paths lie on several filesystems.
    """
    entries = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if not entries:
        raise InvalidArgument("no paths were given; expected a file, folder, glob or URI")
    found: pafs.FileSystem | None = None
    files: list[str] = []
    for entry in entries:
        text = os.fspath(entry)
        home, path, glob = _locate(text, filesystem)
        if found is not None and found != home:
            raise InvalidArgument(f"{text}: lies on another filesystem than {entries[0]}")
        found = home
        with reading(text):
            matches = _list(home, path, glob, suffixes)
        if not matches:
            what = "no file matches" if glob else f"no file, or no {'/'.join(suffixes)} in it"
            raise InvalidArgument(f"{text}: {what}")
        files += matches
    assert found is not None
    return found, files


def _locate(
    text: str, filesystem: pafs.FileSystem | None
) -> tuple[pafs.FileSystem, str, _Glob | None]:
    """Return the filesystem, the path up to the first wildcard, and the glob if there is one."""
    is_uri = filesystem is None and "://" in text
    # In a URI a question mark begins the query.
    wild = re.search(r"[*\[]" if is_uri else r"[*?\[]", text)
    fixed = text if wild is None else text[: text.rfind("/", 0, wild.start()) + 1]
    if is_uri:
        with reading(text):
            filesystem, base = filesystem_of_uri(fixed)
    elif filesystem is None:
        filesystem = pafs.LocalFileSystem()
        base = os.path.abspath(os.path.expanduser(fixed))
    else:
        base = fixed
    base = base.rstrip("/") or base[:1]
    if wild is None:
        return filesystem, base, None
    rest = text[len(fixed) :]
    prefix = base if base in ("", "/") else base + "/"
    pattern = re.compile(re.escape(prefix) + _translate(rest))
    return filesystem, base, _Glob(pattern, is_deep="/" in rest or "**" in rest)


def _translate(glob: str) -> str:
    """Return the regular expression of a glob whose "*" stays within a name and "**" does not."""
    parts = []
    for token in re.findall(r"\*\*/|\*\*|\*|\?|\[!?[^\]]+\]|.", glob):
        if token == "**/":
            parts.append("(?:.*/)?")
        elif token == "**":
            parts.append(".*")
        elif token == "*":
            parts.append("[^/]*")
        elif token == "?":
            parts.append("[^/]")
        elif len(token) > 1:
            parts.append(token.replace("[!", "[^", 1))
        else:
            parts.append(re.escape(token))
    return "".join(parts)


def _list(
    home: pafs.FileSystem, path: str, glob: _Glob | None, suffixes: tuple[str, ...]
) -> list[str]:
    info = home.get_file_info(path)
    if info.type == pafs.FileType.File and glob is None:
        return [info.path]
    if info.type != pafs.FileType.Directory:
        return []
    is_deep = glob is None or glob.is_deep
    below = home.get_file_info(pafs.FileSelector(path, recursive=is_deep))
    names = sorted(item.path for item in below if item.type == pafs.FileType.File)
    if glob is not None:
        return [name for name in names if glob.pattern.fullmatch(name)]
    return [name for name in names if name.endswith(suffixes) and not _is_hidden(name, path)]


def _is_hidden(name: str, folder: str) -> bool:
    return any(part.startswith((".", "_")) for part in name[len(folder) :].strip("/").split("/"))
