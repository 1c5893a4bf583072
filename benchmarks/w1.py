"""W1 on the embedded store: lookup and update of one table under a skewed load.

Every key exists before the clock starts. A step pulls 106,496 rows and pushes as many gradients;
duplicates count as rows. The headline figures come from the plain `store.pull`, which returns a new
array; the figures named `..._into` come from a second loop that fills one array again and again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import embery as em
from benchmarks import workloads
from benchmarks.measure import cpu_s, emit_rate

TABLE = "w1"
WARM_STEPS = 5
FILL_KEYS = 106_496


def filled_store(n_rows: int, dim: int, threads: int) -> em.Store:
    """Return a store whose one table holds the keys 0..n_rows-1."""
    store = em.connect("embedded:", threads=threads)
    store.create_table(
        em.Table(
            TABLE,
            dim=dim,
            optimizer=em.optim.RowwiseAdagrad(lr=0.01),
            initializer=em.init.Uniform(0.1),
        )
    )
    rows = np.empty((FILL_KEYS, dim), np.float32)
    for begin in range(0, n_rows, FILL_KEYS):
        keys = np.arange(begin, min(begin + FILL_KEYS, n_rows), dtype=np.uint64)
        store.pull(TABLE, keys, out=rows[: len(keys)])
    return store


def cycle(
    store: em.Store, batches: Sequence[NDArray[Any]], steps: int, out: workloads.F32 | None
) -> tuple[list[float], list[float], float]:
    """Pull and push `steps` batches; return the seconds of each pull and push, and CPU s a step."""
    dim = store.tables()[TABLE].dim
    grads = np.full((workloads.W1_KEYS, dim), 1e-3, np.float32)
    pull_s, push_s = [], []
    cpu_before_s = 0.0
    for step in range(WARM_STEPS + steps):
        if step == WARM_STEPS:
            cpu_before_s = cpu_s()
        keys = batches[step % len(batches)]
        start = time.perf_counter()
        # The rows stay referenced until the next pull returns, as a model would keep them.
        rows = store.pull(TABLE, keys, out=out)  # noqa: F841
        pulled = time.perf_counter()
        store.push(TABLE, keys, grads)
        pushed = time.perf_counter()
        if step >= WARM_STEPS:
            pull_s.append(pulled - start)
            push_s.append(pushed - pulled)
    return pull_s, push_s, (cpu_s() - cpu_before_s) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=workloads.W1_DIM)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--data", type=Path, default=workloads.default_folder())
    args = parser.parse_args()

    n = workloads.W1_KEYS
    batches = [np.array(keys) for keys in workloads.w1_keys(args.data, args.rows)]
    workload = f"W1 rows={args.rows} dim={args.dim} batch=4096x26 threads={args.threads}"
    with filled_store(args.rows, args.dim, args.threads) as store:
        buffer = np.empty((n, args.dim), np.float32)
        for suffix, out in (("", None), ("_into", buffer)):
            pull_s, push_s, cpu_step_s = cycle(store, batches, args.steps, out)
            both_s = [a + b for a, b in zip(pull_s, push_s, strict=True)]
            cpu_us_per_row = round(cpu_step_s / n * 1e6, 3)
            emit_rate("embery", f"lookup{suffix}_rows_per_s", n, pull_s, workload)
            emit_rate("embery", f"update{suffix}_rows_per_s", n, push_s, workload)
            emit_rate(
                "embery", f"cycle{suffix}_rows_per_s", n, both_s, workload,
                cpu_us_per_row=cpu_us_per_row,
            )  # fmt: skip


if __name__ == "__main__":
    main()
