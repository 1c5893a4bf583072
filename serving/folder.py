"""A folder that appears whole or not at all."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from embery.checkpoint.write_errors import write_errors
from embery.errors import InvalidArgument, Unavailable

_WHEN_FULL = "the export was given up and removed; make room or export elsewhere"


@contextmanager
def appearing_folder(dest: Path) -> Iterator[Path]:
    """Yield an empty folder to write to, which becomes `dest` at the end of the context.

    Its files are the caller's to sync. If the context fails the folder is removed; if the process
    dies in it, the next export to `dest` removes it.

    Args:
        dest: must not exist; folders above it are made.

    Raises:
        InvalidArgument: there is something at `dest`.
        ResourceExhausted: the disk is full.
        Unavailable: another export writes to `dest`, or the file system failed.
    """
    dest = dest.absolute()
    partial = dest.with_name(f".{dest.name}.partial")
    with write_errors(str(dest), "bundle", _WHEN_FULL):
        if dest.exists():
            raise InvalidArgument(
                f"{dest}: exists already; a bundle never replaces anything: name a new folder"
            )
        partial.mkdir(parents=True, exist_ok=True)
        with _locked(partial, dest):
            try:
                for left_by_the_dead in partial.iterdir():
                    left_by_the_dead.unlink()
                yield partial
                sync(partial)
                # Fails if somebody made it meanwhile, unless it is an empty folder.
                partial.rename(dest)
                sync(dest.parent)
            finally:
                shutil.rmtree(partial, ignore_errors=True)


def write_file(path: Path, data: bytes) -> None:
    """Write a new file and sync it."""
    with path.open("xb") as file:
        file.write(data)
    sync(path)


def sync(path: Path) -> None:
    """Make what was written to a file, or the names in a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _locked(partial: Path, dest: Path) -> Iterator[None]:
    """Hold the lock of the partial folder; the system lets go of it if this process dies."""
    descriptor = os.open(partial, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held it may have renamed or removed the folder that was opened here.
            is_ours = os.path.samestat(os.fstat(descriptor), partial.stat())
        except (BlockingIOError, FileNotFoundError):
            is_ours = False
        if not is_ours:
            raise Unavailable(
                f"{dest}: another export is writing there; wait for it, or name another folder"
            )
        yield
    finally:
        os.close(descriptor)
