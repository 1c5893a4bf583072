"""Checkpoints on object stores and any other file system that Arrow or fsspec speaks.

There is no rename, lock or fsync to rely on: files go straight into the checkpoint's folder, and
the manifest, put last, is what makes it one.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit, urlunsplit

from pyarrow import fs

from embery.checkpoint import format as fmt
from embery.checkpoint.storage import PendingCheckpoint, Sink, Storage


class ObjectStorage(Storage):
    """A folder on any file system that Arrow or fsspec speaks, without rename, lock and fsync."""

    def child(self, name: str) -> ObjectStorage:
        """Return the folder or file `name` of this folder."""
        return self._at(posixpath.join(urlsplit(self.address).path, name), self.path + "/" + name)

    def parent(self) -> ObjectStorage:
        """Return the folder that this one lies in."""
        uri = urlsplit(self.address)
        return self._at(posixpath.dirname(uri.path), posixpath.dirname(self.path))

    @contextmanager
    def writing(self) -> Iterator[PendingCheckpoint]:
        """Begin a checkpoint in this folder; what is not committed is removed at the end."""
        numbers = [fmt.number_of(name) or 0 for name in self.folders()]
        number = max(numbers, default=0) + 1
        pending = _PendingObjects(self.child(fmt.checkpoint_folder(number)), number)
        try:
            self.filesystem.create_dir(pending.folder.path, recursive=True)
            yield pending
        finally:
            if not pending.committed:
                self.filesystem.delete_dir(pending.folder.path)

    def remove_files(self, names: Iterable[str]) -> None:
        """Remove files of this folder."""
        for name in names:
            self.filesystem.delete_file(posixpath.join(self.path, name))

    def remove_folder(self) -> None:
        """Remove this folder, which is empty; an object store may have forgotten it already."""
        if self.filesystem.get_file_info(self.path).type == fs.FileType.Directory:
            self.filesystem.delete_dir(self.path)

    def _at(self, uri_path: str, path: str) -> ObjectStorage:
        address = urlunsplit(urlsplit(self.address)._replace(path=uri_path))
        return ObjectStorage(address, self.filesystem, path)


class _PendingObjects(PendingCheckpoint):
    def __init__(self, folder: ObjectStorage, number: int) -> None:
        self.folder = folder
        self.number = number
        self.committed = False

    @contextmanager
    def create(self, name: str) -> Iterator[Sink]:
        path = posixpath.join(self.folder.path, name)
        with self.folder.filesystem.open_output_stream(path) as file:
            yield file

    def commit(self, manifest: bytes) -> Storage:
        with self.create(fmt.MANIFEST) as file:
            file.write(memoryview(manifest))
        self.committed = True
        return self.folder
