"""Checkpoints in a local folder: durable files, an atomic commit, one writer at a time.

The steps and their order are those of docs/formats/checkpoint.md, "Writing"; a crash between any
two of them leaves either no checkpoint of this number or all of it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pyarrow import fs

from embery.checkpoint import format as fmt
from embery.checkpoint.storage import PendingCheckpoint, Sink, Storage
from embery.errors import Unavailable


class LocalStorage(Storage):
    """A folder of this machine."""

    def __init__(self, path: str) -> None:
        self._folder = Path(path).absolute()
        super().__init__(str(self._folder), fs.LocalFileSystem(), str(self._folder))

    def child(self, name: str) -> LocalStorage:
        """Return the folder or file `name` of this folder."""
        return LocalStorage(str(self._folder / name))

    def parent(self) -> LocalStorage:
        """Return the folder that this one lies in."""
        return LocalStorage(str(self._folder.parent))

    @contextmanager
    def writing(self) -> Iterator[PendingCheckpoint]:
        """Begin a checkpoint in this folder; what is not committed is removed at the end."""
        _make_durable_folder(self._folder)
        with _locked(self._folder):
            names = self.folders()
            for name in filter(fmt.is_partial, names):
                shutil.rmtree(self._folder / name)
            numbers = [fmt.number_of(name) or 0 for name in names]
            pending = _PendingFolder(self._folder, max(numbers, default=0) + 1)
            pending.partial.mkdir()
            try:
                yield pending
            finally:
                if pending.partial.exists():
                    shutil.rmtree(pending.partial)

    def remove_files(self, names: Iterable[str]) -> None:
        """Remove files of this folder; they are gone for good when this returns."""
        for name in names:
            (self._folder / name).unlink()
        _sync(self._folder)

    def remove_folder(self) -> None:
        """Remove this folder, which is empty."""
        self._folder.rmdir()


class _PendingFolder(PendingCheckpoint):
    def __init__(self, dest: Path, number: int) -> None:
        self.number = number
        self.partial = dest / fmt.partial_folder(number)
        self._final = dest / fmt.checkpoint_folder(number)

    @contextmanager
    def create(self, name: str) -> Iterator[Sink]:
        path = self.partial / name
        try:
            with path.open("xb", buffering=0) as file:
                yield _WholeWrites(file.fileno())
                os.fsync(file.fileno())
        except OSError as error:
            # write and fsync know no name; the message must have one.
            raise OSError(error.errno, error.strerror, str(path)) from error

    def commit(self, manifest: bytes) -> Storage:
        unnamed = f"{fmt.MANIFEST}.partial"
        with self.create(unnamed) as file:
            file.write(memoryview(manifest))
        (self.partial / unnamed).rename(self.partial / fmt.MANIFEST)
        _sync(self.partial)
        self.partial.rename(self._final)
        _sync(self._final.parent)
        return LocalStorage(str(self._final))


class _WholeWrites:
    """A file descriptor whose `write` leaves nothing unwritten."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, data: memoryview) -> None:
        done = 0
        while done < data.nbytes:
            done += os.write(self._descriptor, data[done:])


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the exclusive lock of `folder`; the system lets go of it if this process dies."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Unavailable(
                f"{folder}: another checkpoint is being written there; wait for it, or use another "
                "folder"
            ) from error
        yield
    finally:
        os.close(descriptor)


def _make_durable_folder(folder: Path) -> None:
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in reversed(missing):
        _sync(path.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
