"""Where checkpoints lie: the one seam to file systems.

A local folder (`local.py`) is written through the operating system, with fsync, rename and a lock;
anything else (`objects.py`) through `pyarrow.fs`. Reading goes through `pyarrow.fs` everywhere.
`location.storage_of` picks one by path or URI.

Thread-safety: a storage and a pending checkpoint may be used from any thread.
"""

from __future__ import annotations

import posixpath
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Protocol

import pyarrow as pa
from pyarrow import fs


class Sink(Protocol):
    """A file being written."""

    def write(self, data: memoryview) -> object:
        """Write all of `data`."""


class PendingCheckpoint(ABC):
    """A checkpoint being written: files first, then `commit`."""

    number: int

    @abstractmethod
    def create(self, name: str) -> AbstractContextManager[Sink]:
        """Open a new file; when the context ends without an error its bytes are durable."""

    @abstractmethod
    def commit(self, manifest: bytes) -> Storage:
        """Make it a checkpoint, all or nothing; return its folder."""


class Storage(ABC):
    """A folder (or, as given by a caller, a file), by its address, on some file system."""

    def __init__(self, address: str, filesystem: fs.FileSystem, path: str) -> None:
        self.address = address
        self.filesystem = filesystem
        self.path = path

    @abstractmethod
    def child(self, name: str) -> Storage:
        """Return the folder or file `name` of this folder."""

    @abstractmethod
    def parent(self) -> Storage:
        """Return the folder that this one lies in."""

    @abstractmethod
    def writing(self) -> AbstractContextManager[PendingCheckpoint]:
        """Begin a checkpoint in this folder; what is not committed is removed at the end.

        Raises:
            Unavailable: another writer is at work in this folder.
        """

    @abstractmethod
    def remove_files(self, names: Iterable[str]) -> None:
        """Remove files of this folder; they are gone for good when this returns."""

    @abstractmethod
    def remove_folder(self) -> None:
        """Remove this folder, which is empty."""

    @property
    def name(self) -> str:
        """Return the last part of the address."""
        return posixpath.basename(self.path)

    def is_file(self) -> bool:
        """Tell whether there is a file at this address."""
        return bool(self.filesystem.get_file_info(self.path).is_file)

    def folders(self) -> list[str]:
        """Return the names of the folders in this one; empty if it does not exist."""
        return [info.base_name for info in self._list() if not info.is_file]

    def files(self) -> dict[str, int]:
        """Return the names and sizes in bytes of the files in this folder."""
        return {info.base_name: info.size for info in self._list() if info.is_file}

    def open(self, name: str) -> pa.NativeFile:
        """Open a file of this folder for reading."""
        return self.filesystem.open_input_file(posixpath.join(self.path, name))

    def _list(self) -> list[fs.FileInfo]:
        selector = fs.FileSelector(self.path, allow_not_found=True)
        return sorted(self.filesystem.get_file_info(selector), key=lambda info: info.base_name)
