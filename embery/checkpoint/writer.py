"""Writes a checkpoint: row files in a few threads, a bounded number of rows at a time.

Every byte passes the checksum on its way to the file. Nothing is a checkpoint before the manifest
is in place; whatever goes wrong before that leaves nothing behind.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pyarrow as pa
from numpy.typing import NDArray

from embery import __version__
from embery.checkpoint import format as fmt
from embery.checkpoint import manifest as manifests
from embery.checkpoint import tree
from embery.checkpoint.background import give_way, save_threads
from embery.checkpoint.columns import RowLayout
from embery.checkpoint.delta import DeltaBase
from embery.checkpoint.format import Tree
from embery.checkpoint.location import storage_of
from embery.checkpoint.manifest import FileEntry, GroupEntry, Manifest, TableEntry
from embery.checkpoint.reader import CheckedFiles, Checkpoint
from embery.checkpoint.retention import retire
from embery.checkpoint.sealed import seal_of
from embery.checkpoint.storage import PendingCheckpoint, Sink
from embery.checkpoint.tables import Lsns, TableSource
from embery.checkpoint.write_errors import write_errors
from embery.errors import InvalidArgument, Unavailable
from embery.observability.logs import facts
from embery.validation import require_int

BATCH_BYTES = 4 << 20
READ_BYTES = 16 << 20
_log = logging.getLogger(__name__)
_WHEN_FULL = (
    "the checkpoint was given up and removed, earlier ones are as they were; make room or save "
    "elsewhere"
)


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """How to write a checkpoint; nothing here changes what it holds.

    `threads` write files (None: half of the processors this process may use, at most 4), and give
    way to others; `group_slots` go into one file; `progress` is called with the bytes written since
    its last call, from any thread.
    """

    threads: int | None = None
    group_slots: int = fmt.GROUP_SLOTS
    clock: Callable[[], float] = time.time
    progress: Callable[[int], None] | None = None

    def validate(self) -> None:
        """Raise `InvalidArgument` naming the first field that is wrong."""
        if self.threads is not None:
            require_int("WriteOptions.threads", self.threads, low=1, high=256)
        require_int("WriteOptions.group_slots", self.group_slots, low=1, high=fmt.SLOTS)


def write(
    dest: str | os.PathLike[str],
    sources: Sequence[TableSource],
    *,
    state: Tree = None,
    keep: int | None = None,
    base: DeltaBase | None = None,
    options: WriteOptions | None = None,
) -> Checkpoint:
    """Save tables, and `state`, as one checkpoint under `dest`.

    Args:
        dest: folder or URI that holds checkpoints; made if absent.
        sources: the tables, which must not change before this returns.
        state: JSON values, numpy arrays and bytes, nested in dicts, lists and tuples, or None.
        keep: leave so many complete checkpoints in `dest`, the newest, and those that they build
            on; None keeps all.
        base: a checkpoint in `dest`, to save only what changed since; None saves all.
        options: how to write it.

    Returns:
        the checkpoint; its files are checked when they are first read.

    Raises:
        InvalidArgument: an argument is wrong; nothing was written.
        ResourceExhausted: the disk is full; nothing of this checkpoint is left, and those before it
            are as they were.
        Unavailable: the file system failed, or another writer is at work in `dest`; as above.
    """
    options = options or WriteOptions()
    options.validate()
    if keep is not None:
        require_int("checkpoint: keep", keep, low=1, high=2**31)
    state_parts = None if state is None else tree.encode(state)
    named = _by_name(sources)
    storage = storage_of(dest)
    errors = write_errors(storage.address, "checkpoint", _WHEN_FULL)
    with errors, storage.writing() as pending:
        manifest = _Run(pending, options, base).manifest(named, state_parts)
        data = manifests.encode(manifest)
        folder = pending.commit(data)
    saved = Checkpoint(
        manifest=manifest,
        state=state,
        files=CheckedFiles(folder),
        seal=seal_of(data),
        base=None if base is None else base.checkpoint,
    )
    size = sum(file.bytes for file in manifest.files())
    rows = sum(table.rows for table in manifest.tables)
    _log.info("saved a checkpoint", extra=facts(path=saved.path, rows=rows, bytes=size))
    if keep is not None:
        retire(storage, keep)
    return saved


def _by_name(sources: Sequence[TableSource]) -> list[tuple[TableSource, RowLayout]]:
    pairs = []
    for source in sources:
        layout = RowLayout.of(source.definition, source.value_bytes, source.state_floats)
        layout.validate()
        pairs.append((source, layout))
    pairs.sort(key=lambda pair: pair[1].table)
    names = [layout.table for _, layout in pairs]
    if len(names) != len(set(names)):
        raise InvalidArgument(f"checkpoint: expected distinct tables, got {names}")
    return pairs


class _Run:
    """One checkpoint being written. `_stop` ends all threads at their next batch."""

    def __init__(
        self, pending: PendingCheckpoint, options: WriteOptions, base: DeltaBase | None
    ) -> None:
        self._pending = pending
        self._options = options
        self._base = base
        self._stop = threading.Event()

    def manifest(
        self,
        sources: Sequence[tuple[TableSource, RowLayout]],
        state: tuple[str, list[NDArray[Any]]] | None,
    ) -> Manifest:
        """Write all files but the manifest, and return it."""
        threads = self._options.threads or save_threads()
        pool = ThreadPoolExecutor(threads, "embery-checkpoint", initializer=give_way)
        try:
            groups = [
                [
                    pool.submit(self._group, number, source, layout, begin)
                    for begin in range(0, fmt.SLOTS, self._options.group_slots)
                ]
                for number, (source, layout) in enumerate(sources)
            ]
            states = [
                pool.submit(self._table_state, number, source)
                for number, (source, _) in enumerate(sources)
            ]
            own = [] if state is None else [pool.submit(self._tree, fmt.STATE_FILE, *state)]
            _finish([*(job for jobs in groups for job in jobs), *states, *own])
        finally:
            self._stop.set()
            pool.shutdown(cancel_futures=True)
        tables = [
            _table_entry(source, layout, [job.result() for job in jobs], table_state.result())
            for (source, layout), jobs, table_state in zip(sources, groups, states, strict=True)
        ]
        return Manifest(
            number=self._pending.number,
            created_at_s=int(self._options.clock()),
            writer=f"embery {__version__}",
            tables=tuple(tables),
            state=own[0].result() if own else None,
            kind="full" if self._base is None else "delta",
            base=None if self._base is None else self._base.checkpoint.number,
            base_seal=None if self._base is None else self._base.checkpoint.seal,
        )

    def _since(self, table: str) -> Lsns | None:
        return None if self._base is None else self._base.lsns.get(table)

    def _group(
        self, number: int, source: TableSource, layout: RowLayout, begin: int
    ) -> GroupEntry | None:
        """Write the rows of a group of slots; None, and no file, if there are none."""
        end = min(begin + self._options.group_slots, fmt.SLOTS)
        rows_max = max(1, BATCH_BYTES // layout.row_bytes)
        slot_bytes = max(1, source.row_count * layout.row_bytes // fmt.SLOTS)
        slots_a_read = min(max(1, READ_BYTES // slot_bytes), end - begin)
        schema = layout.schema(begin, end)
        since = self._since(layout.table)
        batches = (
            batch
            for slot in range(begin, end, slots_a_read)
            for batch in layout.batches(
                source.export_rows(slot, min(slot + slots_a_read, end), since), schema, rows_max
            )
        )
        first = next(batches, None)
        if first is None:
            return None
        name = fmt.rows_file(number, begin, end)
        file, rows = self._arrow_file(name, schema, chain([first], batches))
        return GroupEntry(slot_begin=begin, slot_end=end, rows=rows, file=file)

    def _table_state(self, number: int, source: TableSource) -> FileEntry:
        state = source.export_state(self._since(source.definition["name"]))
        return self._tree(fmt.table_state_file(number), *tree.encode(state))

    def _tree(self, name: str, text: str, arrays: list[NDArray[Any]]) -> FileEntry:
        schema = tree.schema(text)
        return self._arrow_file(name, schema, tree.batches(arrays, schema))[0]

    def _arrow_file(
        self, name: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]
    ) -> tuple[FileEntry, int]:
        """Write one file; return its entry and its number of rows."""
        rows = 0
        with self._pending.create(name) as sink:
            summed = _SummedSink(sink, self._options.progress)
            with pa.ipc.new_file(pa.PythonFile(summed, mode="w"), schema) as writer:
                for batch in batches:
                    if self._stop.is_set():
                        raise Unavailable(f"{name}: the checkpoint was given up")
                    writer.write_batch(batch)
                    rows += batch.num_rows
        return FileEntry(name=name, bytes=summed.bytes, crc32=f"{summed.crc32:08x}"), rows


class _SummedSink:
    """What Arrow writes to: sums up each byte on its way to the file."""

    closed = False

    def __init__(self, sink: Sink, progress: Callable[[int], None] | None) -> None:
        self.bytes = 0
        self.crc32 = 0
        self._sink = sink
        self._progress = progress

    def write(self, data: pa.Buffer | bytes) -> int:
        view = memoryview(data)
        self.crc32 = zlib.crc32(view, self.crc32)
        self._sink.write(view)
        self.bytes += view.nbytes
        if self._progress is not None:
            self._progress(view.nbytes)
        return view.nbytes

    def tell(self) -> int:
        return self.bytes

    def flush(self) -> None:
        """Nothing is held back here."""


def _finish(jobs: Sequence[Future[Any]]) -> None:
    """Wait for all jobs, or raise the error of the first that fails."""
    done, _ = wait(jobs, return_when=FIRST_EXCEPTION)
    for job in done:
        job.result()


def _table_entry(
    source: TableSource,
    layout: RowLayout,
    groups: Sequence[GroupEntry | None],
    state: FileEntry,
) -> TableEntry:
    full = tuple(group for group in groups if group is not None)
    return TableEntry(
        name=layout.table,
        definition=dict(source.definition),
        value_bytes=layout.value_bytes,
        state_floats=layout.state_floats,
        rows=sum(group.rows for group in full),
        groups=full,
        state=state,
    )
