"""Saving and restoring the embedded store, in turns with dd: how far from the disk is it?

    python -m benchmarks.checkpoint --rows 5000000 --dest DIR

Each round writes as many bytes with `dd conv=fsync` as the checkpoint has, saves (every file is
synced too), verifies, and restores into a store of its own. Reading comes from the page cache, as
after a restart of the process on the same machine. Figures are JSON lines, MB/s by the clock, with
the processor seconds of the step beside them: on a busy machine those say more.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import embery as em
from benchmarks.measure import cpu_s, emit, log
from embery import checkpoint

DIM = 16
FILL_ROWS = 1_000_000


def filled_store(rows: int) -> em.Store:
    """Return a store whose table "item" has `rows` rows that were each pushed once."""
    store = em.connect("embedded:")
    store.create_table(em.Table("item", dim=DIM))
    rng = np.random.default_rng(0)
    for begin in range(0, rows, FILL_ROWS):
        keys = np.arange(begin, min(begin + FILL_ROWS, rows), dtype=np.uint64)
        store.push("item", keys, rng.standard_normal((len(keys), DIM), dtype=np.float32))
    return store


def timed(peer: str, size: int, workload: str, step: Callable[[], object]) -> None:
    """Run `step` and print its rate over `size` bytes."""
    start, cpu_before_s = time.perf_counter(), cpu_s()
    step()
    elapsed_s = time.perf_counter() - start
    used_s = round(cpu_s() - cpu_before_s, 2)
    emit(peer, "rate", size / 1e6 / elapsed_s, "MB/s", workload, cpu_s=used_s)


def dd(file: Path, size: int) -> None:
    """Write `size` bytes to `file` and sync it."""
    blocks = f"count={size >> 22}"
    command = ["dd", "if=/dev/zero", f"of={file}", "bs=4M", blocks, "conv=fsync", "status=none"]
    subprocess.run(command, check=True)
    file.unlink()


def run(rows: int, rounds: int, dest: Path) -> None:
    """Print the figures of `rounds` rounds."""
    log(f"filling {rows:,} rows of dim {DIM}")
    store = filled_store(rows)
    size = sum(f.bytes for f in checkpoint.open(store.checkpoint(dest)).manifest.files())
    workload = f"checkpoint-{rows}x{DIM}-{size >> 20}MiB"
    other = em.connect("embedded:")
    for _ in range(rounds):
        shutil.rmtree(dest)
        dest.mkdir()
        timed("dd conv=fsync", size, workload, lambda: dd(dest / "zeros", size))
        timed("embery save", size, workload, lambda: store.checkpoint(dest))
        timed("embery verify", size, workload, lambda: checkpoint.open(dest))
        timed("embery restore", size, workload, lambda: other.restore(dest))
    probe = np.arange(0, rows, max(1, rows // 1000), dtype=np.uint64)
    before, after = (s.pull("item", probe, train=False) for s in (store, other))
    if before.tobytes() != after.tobytes():
        raise SystemExit("the restored rows differ from the saved ones")


def main() -> None:
    parser = argparse.ArgumentParser(description="Save and restore in turns with dd.")
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dest", type=Path, help="an existing folder on the disk to measure")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.dest) as folder:
        run(arguments.rows, arguments.rounds, Path(folder) / "checkpoints")


if __name__ == "__main__":
    main()
