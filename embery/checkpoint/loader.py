"""Loads a verified checkpoint into tables, in a few threads, a file of rows each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed

from embery.checkpoint.merging import Part, parts_of
from embery.checkpoint.reader import Checkpoint
from embery.checkpoint.tables import TableSink
from embery.errors import SchemaMismatch

THREADS_MAX = 4


def require_same_tables(checkpoint: Checkpoint, sinks: Mapping[str, TableSink]) -> None:
    """Raise `SchemaMismatch` unless `sinks` are the checkpoint's tables, equally defined."""
    tables = checkpoint.tables
    if set(tables) != set(sinks):
        raise SchemaMismatch(
            f"{checkpoint.path}: expected the tables {sorted(sinks)}, got {sorted(tables)}"
        )
    for name, sink in sinks.items():
        expected, got = dict(sink.definition), dict(tables[name].definition)
        if expected != got:
            raise SchemaMismatch(
                f"{checkpoint.path}: table {name!r}: expected {_difference(expected, got)}"
            )


def load(
    checkpoint: Checkpoint,
    sinks: Mapping[str, TableSink],
    *,
    threads: int = THREADS_MAX,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Replace what is in `sinks` by the tables of `checkpoint`.

    Everything is checked before the first sink is cleared. The rows of one file arrive in order;
    different files, which hold different rows, arrive at the same time. `progress` is called with
    the bytes of each file whose rows are in place.

    Raises:
        CheckpointCorrupt: the checkpoint is damaged; nothing was changed.
        SchemaMismatch: the sinks are not its tables, or another definition; nothing was changed.
    """
    require_same_tables(checkpoint, sinks)
    checkpoint.verify()
    for sink in sinks.values():
        sink.clear()
    pool = ThreadPoolExecutor(threads, "embery-restore")
    try:
        jobs = {
            pool.submit(_load_part, part, sinks[name]): part.group.file.bytes
            for name in checkpoint.tables
            for part in parts_of(checkpoint, name)
        }
        for job in as_completed(jobs):
            job.result()
            if progress is not None:
                progress(jobs[job])
    finally:
        pool.shutdown(cancel_futures=True)
    for name, sink in sinks.items():
        sink.import_state(checkpoint.table_state(name))


def _load_part(part: Part, sink: TableSink) -> None:
    sink.reserve(part.group.slot_begin, part.group.slot_end, part.group.rows)
    for columns in part.rows():
        sink.import_rows(columns)


def _difference(expected: Mapping[str, object], got: Mapping[str, object]) -> str:
    """Return in words where two definitions differ."""
    fields = [key for key in {**expected, **got} if expected.get(key) != got.get(key)]
    return "; ".join(f"{key} = {expected.get(key)!r}, got {got.get(key)!r}" for key in fields)
