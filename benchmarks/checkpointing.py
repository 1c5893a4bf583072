"""Checkpoints: how far from the disk they are, and what training feels of them.

    python -m benchmarks.checkpointing --rows 5000000 --servers 0 --dest DIR

Each round writes as many bytes with `dd conv=fsync` as the checkpoint has, saves (every file is
synced too), verifies, and restores. Then a worker pulls and pushes, and its rate is told before and
while checkpoints are saved, with how long making the cut took; deltas follow, of which the bytes a
changed row are told. `--servers N` does so with N servers in other processes, 0 with the embedded
store. Reading comes from the page cache, as after a restart of the process on the same machine.
Figures are JSON lines, MB/s by the clock, with the processor seconds of the step beside them: on a
busy machine those say more.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

import embery as em
from benchmarks.measure import cpu_s, emit, log
from benchmarks.moving import Calls, start
from embery import checkpoint

DIM = 64
TABLE = em.Table("moving", dim=DIM, optimizer=em.optim.RowwiseAdagrad(lr=0.01))
FILL_ROWS = 100_000
SECONDS_BEFORE = 5.0
SAVES_UNDER_TRAINING = 3
TIMEOUT_S = 120.0


@contextmanager
def cluster(servers: int, logs: Path) -> Iterator[str]:
    """Run so many servers; yield the URL of their store."""
    if not servers:
        yield "embedded:"
        return
    with ExitStack() as stack:
        expected = ("--expect-ps", str(servers))
        url = start(stack, logs / "coordinator", "coordinator", "--port", "0", *expected).split()[
            -1
        ]
        for number in range(servers):
            start(stack, logs / f"ps-{number}", "ps", "--coordinator", url, "--drain", "0")
        yield url


def fill(store: em.Store, rows: int) -> None:
    """Make `rows` rows that were each pushed once."""
    store.create_table(TABLE)
    rng = np.random.default_rng(0)
    for begin in range(0, rows, FILL_ROWS):
        keys = np.arange(begin, min(begin + FILL_ROWS, rows), dtype=np.uint64)
        store.push("moving", keys, rng.standard_normal((len(keys), DIM), dtype=np.float32))


def timed(peer: str, size: int, workload: str, step: Callable[[], object]) -> None:
    """Run `step` and print its rate over `size` bytes."""
    begin, cpu_before_s = time.perf_counter(), cpu_s()
    step()
    elapsed_s = time.perf_counter() - begin
    used_s = round(cpu_s() - cpu_before_s, 2)
    emit(peer, "rate", size / 1e6 / elapsed_s, "MB/s", workload, cpu_s=used_s)


def dd(file: Path, size: int) -> None:
    """Write `size` bytes to `file` and sync it."""
    blocks = f"count={size >> 22}"
    command = ["dd", "if=/dev/zero", f"of={file}", "bs=4M", blocks, "conv=fsync", "status=none"]
    subprocess.run(command, check=True)
    file.unlink()


def file_bytes(path: str) -> int:
    """Return the bytes of a checkpoint's own files."""
    return sum(file.bytes for file in checkpoint.open_unchecked(path).manifest.files())


def measure_rates(store: em.Store, size: int, rounds: int, dest: Path, workload: str) -> None:
    """Print how fast all is saved, verified and restored, in turns with dd."""
    for _ in range(rounds):
        shutil.rmtree(dest)
        dest.mkdir()
        timed("dd conv=fsync", size, workload, lambda: dd(dest / "zeros", size))
        timed("embery save", size, workload, lambda: store.checkpoint(dest))
        timed("embery verify", size, workload, lambda: checkpoint.open(dest))
        timed("embery restore", size, workload, lambda: store.restore(dest))


def measure_training(store: em.Store, rows: int, dest: Path, workload: str) -> None:
    """Print the rate of a worker before and while checkpoints are saved, and the time of a cut."""
    calls = Calls(store, rows)
    calls.start()
    time.sleep(SECONDS_BEFORE)
    begin = time.perf_counter()
    for _ in range(SAVES_UNDER_TRAINING):
        asked = time.perf_counter()
        saved = store.checkpoint_async(dest)
        emit("embery", "cut", (time.perf_counter() - asked) * 1e3, "ms", workload)
        saved.result(TIMEOUT_S)
    end = time.perf_counter()
    calls.stopping.set()
    calls.join(TIMEOUT_S)
    before = sum(began < begin for began, *_ in calls.taken) / SECONDS_BEFORE
    during = sum(begin <= began < end for began, *_ in calls.taken) / (end - begin)
    seconds = round((end - begin) / SAVES_UNDER_TRAINING, 2)
    emit("embery", "rate under training", during / before, "of before", workload, save_s=seconds)
    longest = max(pull + push for began, pull, push in calls.taken if begin <= began < end)
    emit("embery", "longest step under training", longest * 1e3, "ms", workload)


def measure_deltas(store: em.Store, rows: int, dest: Path, workload: str) -> None:
    """Print the bytes a changed row of deltas of a hundredth and a tenth of all rows."""
    store.checkpoint(dest)
    for share in (100, 10):
        keys = np.arange(0, rows, share, dtype=np.uint64)
        store.push("moving", keys, np.ones((len(keys), DIM), np.float32))
        begin = time.perf_counter()
        size = file_bytes(store.checkpoint(dest, delta=True))
        seconds = round(time.perf_counter() - begin, 2)
        emit("embery delta", "bytes", size / len(keys), f"B/row of 1/{share}", workload, s=seconds)


def run(rows: int, rounds: int, servers: int, dest: Path, logs: Path) -> None:
    """Print all figures of one kind of store."""
    with cluster(servers, logs) as url, em.connect(url) as store:
        log(f"filling {rows:,} rows of dim {DIM}")
        fill(store, rows)
        size = file_bytes(store.checkpoint(dest))
        workload = f"{servers}-servers-{rows}x{DIM}-{size >> 20}MiB"
        measure_rates(store, size, rounds, dest, workload)
        measure_training(store, rows, dest, workload)
        measure_deltas(store, rows, dest, workload)


def main() -> None:
    parser = argparse.ArgumentParser(description="Save and restore in turns with dd, and training.")
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--servers", type=int, default=0, help="0: the embedded store")
    parser.add_argument("--dest", type=Path, help="an existing folder on the disk to measure")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(dir=arguments.dest) as folder,
        tempfile.TemporaryDirectory() as logs,
    ):
        run(arguments.rows, arguments.rounds, arguments.servers, Path(folder) / "saved", Path(logs))


if __name__ == "__main__":
    main()
