"""Reads checkpoints: checks everything first, then gives out rows and state.

`open` finds a checkpoint and verifies every byte of it before it returns. `open_unchecked` reads
only the manifest and `state`; each other file is then verified when it is first read, which is what
looking up one row of a large checkpoint needs.
"""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embery.checkpoint import format as fmt
from embery.checkpoint import tree
from embery.checkpoint.columns import RowLayout
from embery.checkpoint.format import Columns, Tree
from embery.checkpoint.location import storage_of
from embery.checkpoint.manifest import FileEntry, GroupEntry, Manifest, TableEntry
from embery.checkpoint.merging import joined_states, parts_of
from embery.checkpoint.retention import complete_numbers, read_manifest
from embery.checkpoint.storage import Storage
from embery.errors import CheckpointCorrupt, TableNotFound, Unavailable

CHUNK_BYTES = 4 << 20
THREADS_MAX = 4


class CheckedFiles:
    """The files of a checkpoint; each is verified once, before it is first opened. Thread-safe."""

    def __init__(self, folder: Storage) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._verified: set[FileEntry] = set()
        self.all_verified = False

    def address(self, name: str) -> str:
        """Return the path or URI of a file."""
        return self.folder.child(name).address

    @contextmanager
    def open(self, entry: FileEntry) -> Iterator[pa.RecordBatchFileReader]:
        """Open an Arrow file whose size and checksum are those of `entry`.

        Raises:
            CheckpointCorrupt: they are not, or it is no Arrow file.
            Unavailable: the file system failed.
        """
        where = self.address(entry.name)
        try:
            with self.folder.open(entry.name) as file:
                with self._lock:
                    verified = entry in self._verified
                if not verified:
                    _verify(file, entry, where)
                    with self._lock:
                        self._verified.add(entry)
                with pa.ipc.open_file(file) as reader:
                    yield reader
        except FileNotFoundError as error:
            raise CheckpointCorrupt(
                f"{where}: expected a file of {entry.bytes} bytes, got none; the checkpoint is "
                "incomplete"
            ) from error
        except pa.ArrowInvalid as error:
            raise CheckpointCorrupt(f"{where}: expected an Arrow IPC file, got: {error}") from error
        except OSError as error:
            raise Unavailable(f"{where}: cannot read: {error}") from error


def _verify(file: pa.NativeFile, entry: FileEntry, where: str) -> None:
    size = file.size()
    if size != entry.bytes:
        raise CheckpointCorrupt(f"{where}: expected {entry.bytes} bytes, got {size}")
    crc32 = 0
    chunk = memoryview(bytearray(min(CHUNK_BYTES, max(size, 1))))
    while count := file.readinto(chunk):
        crc32 = zlib.crc32(chunk[:count], crc32)
    if f"{crc32:08x}" != entry.crc32:
        raise CheckpointCorrupt(
            f"{where}: expected CRC-32 {entry.crc32}, got {crc32:08x}; the file is damaged"
        )
    file.seek(0)


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A checkpoint that can be read. Thread-safe.

    `state` is the tree it was saved with, or None; `seal` tells it from any other. A delta has a
    `base`, the checkpoint that it builds on: what is read of it is the whole, but for
    `group_rows` and what the manifest says, which are of its own files.
    """

    manifest: Manifest = field(repr=False)
    state: Tree = field(repr=False)
    files: CheckedFiles = field(repr=False)
    seal: str = field(repr=False)
    base: Checkpoint | None = field(default=None, repr=False)

    @property
    def path(self) -> str:
        """Return the path or URI of the manifest."""
        return self.files.address(fmt.MANIFEST)

    @property
    def number(self) -> int:
        """Return the number of the checkpoint in its folder of checkpoints."""
        return self.manifest.number

    @property
    def tables(self) -> dict[str, TableEntry]:
        """Return the tables by name."""
        return {table.name: table for table in self.manifest.tables}

    def rows(self, table: str, *, slot: int | None = None) -> Iterator[Columns]:
        """Yield the rows of a table, a bounded number at a time, as read-only columns.

        Args:
            table: name of the table.
            slot: only the group of slots that holds this one; None takes all.

        Raises:
            TableNotFound: there is no such table.
            CheckpointCorrupt: a file does not match the manifest.
        """
        self._entry(table)
        for part in parts_of(self, table):
            if slot is None or part.group.slot_begin <= slot < part.group.slot_end:
                yield from part.rows()

    def chain(self) -> list[Checkpoint]:
        """Return the checkpoints that make this one up: itself, its base and so on."""
        return [self, *(self.base.chain() if self.base is not None else ())]

    def deleted(self, table: str) -> NDArray[np.uint64]:
        """Return keys of a delta's table of which the base's rows are gone, or were replaced."""
        state = self._tree(self._entry(table).state)
        return np.asarray(state.get(fmt.DELETED, np.empty(0, np.uint64)))

    def group_rows(self, entry: TableEntry, group: GroupEntry) -> Iterator[Columns]:
        """Yield the rows of one file of this checkpoint, as `rows`; of a delta, those changed."""
        layout = entry.layout
        rows = 0
        with self._open_rows(layout, group) as reader:
            for index in range(reader.num_record_batches):
                batch = reader.get_batch(index)
                rows += batch.num_rows
                yield layout.columns(batch)
        self._require_rows(group, rows)

    def table_state(self, table: str) -> Tree:
        """Return what the table held beside its rows: counters, slot LSNs, tombstones, ..."""
        state = self._tree(self._entry(table).state)
        if self.base is None or table not in self.base.tables:
            return state
        return joined_states(self.base.table_state(table), state)

    def verify(self, *, progress: Callable[[int], None] | None = None) -> None:
        """Check every byte, schema and row count against the manifest.

        Args:
            progress: called with the bytes of each file that was checked.

        Raises:
            CheckpointCorrupt: at the first difference.
        """
        if self.base is not None:
            self.base.verify(progress=progress)
        if self.files.all_verified:
            return
        pool = ThreadPoolExecutor(THREADS_MAX, "embery-verify")
        try:
            jobs: dict[Future[Any], FileEntry] = {}
            for table in self.manifest.tables:
                for group in table.groups:
                    jobs[pool.submit(self._verify_group, table, group)] = group.file
                jobs[pool.submit(self._tree, table.state)] = table.state
            for job in as_completed(jobs):
                job.result()
                if progress is not None:
                    progress(jobs[job].bytes)
            self.files.all_verified = True
        finally:
            pool.shutdown(cancel_futures=True)

    def _entry(self, table: str) -> TableEntry:
        if table not in self.tables:
            raise TableNotFound(
                f"{self.path}: no table {table!r}; the checkpoint has {sorted(self.tables)}"
            )
        return self.tables[table]

    @contextmanager
    def _open_rows(
        self, layout: RowLayout, group: GroupEntry
    ) -> Iterator[pa.RecordBatchFileReader]:
        with self.files.open(group.file) as reader:
            expected = layout.schema(group.slot_begin, group.slot_end)
            if not reader.schema.equals(expected, check_metadata=True):
                raise CheckpointCorrupt(
                    f"{self.files.address(group.file.name)}: expected the schema\n"
                    f"{expected}\ngot\n{reader.schema}"
                )
            yield reader

    def _verify_group(self, entry: TableEntry, group: GroupEntry) -> None:
        with self._open_rows(entry.layout, group) as reader:
            rows = sum(reader.get_batch(i).num_rows for i in range(reader.num_record_batches))
        self._require_rows(group, rows)

    def _require_rows(self, group: GroupEntry, rows: int) -> None:
        if rows != group.rows:
            raise CheckpointCorrupt(
                f"{self.files.address(group.file.name)}: expected {group.rows} rows, got {rows}"
            )

    def _tree(self, entry: FileEntry) -> Tree:
        with self.files.open(entry) as reader:
            try:
                return tree.read(reader)
            except CheckpointCorrupt as error:
                raise CheckpointCorrupt(f"{self.files.address(entry.name)}: {error}") from error


def open(
    src: str | os.PathLike[str], *, progress: Callable[[int], None] | None = None
) -> Checkpoint:
    """Open a checkpoint and verify all of it.

    Args:
        src: a manifest, its folder, or a folder of checkpoints, of which the newest is taken.
        progress: see `Checkpoint.verify`.

    Raises:
        CheckpointCorrupt: there is none, or a byte of it is damaged or missing.
        Unavailable: the file system failed.
    """
    checkpoint = open_unchecked(src)
    checkpoint.verify(progress=progress)
    return checkpoint


def open_unchecked(src: str | os.PathLike[str]) -> Checkpoint:
    """Open a checkpoint, verifying manifests and `state` now, other files when they are read."""
    folder = _find(storage_of(src))
    found = _open_folder(folder, fmt.DELTAS_MAX)
    if found.manifest.state is None:
        return found
    return replace(found, state=found._tree(found.manifest.state))


def _open_folder(folder: Storage, deltas_max: int) -> Checkpoint:
    """Open a checkpoint and those that it builds on, without their `state`."""
    where = folder.child(fmt.MANIFEST).address
    try:
        manifest, seal = read_manifest(folder)
    except OSError as error:
        raise Unavailable(f"{where}: cannot read: {error}") from error
    bare = Checkpoint(manifest=manifest, state=None, files=CheckedFiles(folder), seal=seal)
    if manifest.base is None:
        return bare
    base = folder.parent().child(fmt.checkpoint_folder(manifest.base))
    if deltas_max == 0 or not base.child(fmt.MANIFEST).is_file():
        raise CheckpointCorrupt(
            f"{where}: expected the checkpoint that it builds on at {base.address}, at most "
            f"{fmt.DELTAS_MAX} deltas down to a full one, got none; keep them in one folder, or "
            "restore another checkpoint"
        )
    found = _open_folder(base, deltas_max - 1)
    if found.seal != manifest.base_seal:
        raise CheckpointCorrupt(
            f"{where}: expected {base.address} with the seal {manifest.base_seal}, got "
            f"{found.seal}; another checkpoint took the place of the one it builds on"
        )
    return replace(bare, base=found)


def newest(src: str | os.PathLike[str]) -> str | None:
    """Return the manifest of the newest complete checkpoint in a folder, or None if it has none."""
    storage = storage_of(src)
    complete = complete_numbers(storage)
    return storage.child(complete[-1][1]).child(fmt.MANIFEST).address if complete else None


def _find(storage: Storage) -> Storage:
    """Return the folder of the checkpoint that `storage` means."""
    if storage.is_file():
        if storage.name != fmt.MANIFEST:
            raise CheckpointCorrupt(
                f"{storage.address}: expected {fmt.MANIFEST!r}, its folder or a folder of "
                "checkpoints, got another file"
            )
        return storage.parent()
    if storage.child(fmt.MANIFEST).is_file():
        return storage
    complete = complete_numbers(storage)
    if not complete:
        found = [*storage.folders(), *storage.files()][:8]
        raise CheckpointCorrupt(
            f"{storage.address}: expected {fmt.MANIFEST!r}, or folders 'checkpoint-<number>' that "
            f"have one, got {found or 'nothing'}; a folder without a manifest was never completed"
        )
    return storage.child(complete[-1][1])
