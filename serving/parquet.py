"""The rows of a checkpoint as Parquet files, which any engine reads."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embery import checkpoint as checkpoints
from embery.checkpoint import Checkpoint
from embery.checkpoint.format import Columns
from embery.observability.progress import progress
from embery.rows import decode_values
from embery.serving.folder import appearing_folder, sync
from embery.serving.manifest import Filters
from embery.serving.rows import kept


def export_parquet(
    checkpoint: str | os.PathLike[str],
    dest: str | os.PathLike[str],
    *,
    filters: Filters | None = None,
) -> dict[str, Any]:
    """Write one file a table, `<table>.parquet`; return how many tables, rows and bytes.

    Columns: key uint64, embedding list<float32>[dim], count uint32 (updates of the row), step and
    time_s uint32 (when it was last touched). Optimizer state is left out.

    Args:
        checkpoint: a manifest, its folder, or a folder of checkpoints: its newest one.
        dest: folder to make; it appears whole or not at all.
        filters: which rows to leave out.

    Raises:
        InvalidArgument: there is something at `dest`.
        CheckpointCorrupt: the checkpoint is damaged.
        ResourceExhausted: the disk is full.
        Unavailable: the file system failed.
    """
    found, filters = checkpoints.open_unchecked(checkpoint), filters or Filters()
    with appearing_folder(Path(dest)) as folder:
        counts = [_write(folder, found, name, filters) for name in found.tables]
    files = list(Path(dest).iterdir())
    return {
        "parquet": str(dest),
        "checkpoint": found.number,
        "tables": len(counts),
        "rows": sum(counts),
        "bytes": sum(file.stat().st_size for file in files),
    }


def _write(folder: Path, found: Checkpoint, name: str, filters: Filters) -> int:
    entry, path, count = found.tables[name], folder / f"{name}.parquet", 0
    dtype, dim, now_s = entry.definition["dtype"], entry.definition["dim"], int(time.time())
    schema = pa.schema(
        {
            "key": pa.uint64(),
            "embedding": pa.list_(pa.float32(), dim),
            "count": pa.uint32(),
            "step": pa.uint32(),
            "time_s": pa.uint32(),
        }
    )
    with (
        progress(f"table {name}", total=entry.rows, unit=" rows") as advance,
        pq.ParquetWriter(path, schema) as writer,
    ):
        for columns in found.rows(name):
            some = _records(columns, kept(columns, filters, now_s), dtype, dim, schema)
            writer.write_batch(some)
            count += some.num_rows
            advance(len(columns["key"]))
    sync(path)
    return count


def _records(
    columns: Columns, mask: Any, dtype: str, dim: int, schema: pa.Schema
) -> pa.RecordBatch:
    numbers = np.ascontiguousarray(decode_values(dtype, dim, columns["values"][mask]))
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(numbers.reshape(-1)), dim)
    scalars = {name: pa.array(columns[name][mask]) for name in ("key", "count", "step", "time_s")}
    return pa.RecordBatch.from_pydict({**scalars, "embedding": vectors}, schema=schema)
