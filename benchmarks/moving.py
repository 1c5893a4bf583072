"""What it costs to move half of a table to a new server while a worker pulls and pushes.

    taskset -c 0,1 python -m benchmarks.moving --rows 1000000

Prints the worker's rate and the latency of its calls before and during the move, for how long slots
were frozen, and how many bytes a second moved. Coordinator, both servers and the worker share the
processors.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np

import embery as em
from benchmarks.measure import emit
from benchmarks.roles import TIMEOUT_S, start
from embery.rpc.client import CoordinatorClient

DIM, BATCH = 64, 10_000
TABLE = em.Table(
    "moving",
    dim=DIM,
    optimizer=em.optim.RowwiseAdagrad(lr=0.01),
    initializer=em.init.Uniform(0.1),
)
MOVED = re.compile(r"slots have moved: (\d+) rows, ([\d.]+) MB, frozen for ([\d.]+) ms")
SECONDS_BEFORE = 5.0


class Calls(threading.Thread):
    """Pulls and pushes drawn keys; notes when each call began and what it took."""

    def __init__(self, store: em.Store, rows: int) -> None:
        super().__init__(daemon=True)
        self.store, self.rows = store, rows
        self.stopping = threading.Event()
        self.taken: list[tuple[float, float, float]] = []

    def run(self) -> None:
        random = np.random.default_rng(0)
        grads = np.full((BATCH, DIM), 1e-3, np.float32)
        while not self.stopping.is_set():
            keys = random.integers(0, self.rows, BATCH).astype(np.uint64)
            begin = time.perf_counter()
            self.store.pull("moving", keys)
            pulled = time.perf_counter()
            self.store.push("moving", keys, grads)
            self.taken.append((begin, pulled - begin, time.perf_counter() - pulled))


def report(phase: str, taken: list[tuple[float, float, float]], seconds: float) -> float:
    """Print what calls took in a phase; return the rate."""
    rate = len(taken) * BATCH / seconds
    emit(phase, "cycle_rows_per_s", rate, "rows/s", f"{BATCH} rows a call")
    for name, column in (("pull", 1), ("push", 2)):
        values = [call[column] * 1e3 for call in taken]
        for share in (50, 99):
            value = float(np.percentile(values, share))
            emit(phase, f"{name}_p{share}_ms", value, "ms", f"{len(taken)} calls")
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    args = parser.parse_args()
    with ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        _, line = start(stack, logs / "coordinator", "coordinator", "--port", "0")
        url = line.split()[-1]
        start(stack, logs / "ps-0", "ps", "--coordinator", url, "--drain", "0")
        store = stack.enter_context(em.connect(url, timeout_s=TIMEOUT_S))
        coordinator = CoordinatorClient(url)
        stack.callback(coordinator.close)
        store.create_table(TABLE)
        for begin in range(0, args.rows, 100_000):
            keys = np.arange(begin, min(begin + 100_000, args.rows), dtype=np.uint64)
            store.pull("moving", keys)
        calls = Calls(store, args.rows)
        calls.start()
        time.sleep(SECONDS_BEFORE)
        before = time.perf_counter()
        start(stack, logs / "ps-1", "ps", "--coordinator", url, "--drain", "0")
        begun = time.perf_counter()
        while (coordinator.status().routing.owners == 1).sum() < 2048:
            time.sleep(0.05)
        ended = time.perf_counter()
        calls.stopping.set()
        calls.join(TIMEOUT_S)
        still = report("before", [c for c in calls.taken if c[0] < before], SECONDS_BEFORE)
        moving = [c for c in calls.taken if begun <= c[0] < ended]
        rate = report("during", moving, ended - begun)
        emit("during", "rate_share", rate / still, "", "of the rate before")
        moves = [tuple(map(float, m)) for m in MOVED.findall((logs / "coordinator").read_text())]
        frozen = [move[2] for move in moves]
        megabytes = sum(move[1] for move in moves)
        for share in (50, 99):
            value = float(np.percentile(frozen, share))
            emit("during", f"frozen_p{share}_ms", value, "ms", f"{len(moves)} moves")
        emit("during", "moved_mb_per_s", megabytes / (ended - begun), "MB/s", f"{megabytes:.0f} MB")


if __name__ == "__main__":
    main()
