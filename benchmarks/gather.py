"""Distinct rows on the embedded store: what the index, the locks and the metadata cost.

Pulls and pushes batches of 106,496 uniformly drawn distinct keys: the case in which no row is used
twice, so that every row comes from memory. `gather_limit` reads the same keys through a perfect
index.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks import workloads
from benchmarks.measure import emit_rate, timed_steps
from benchmarks.w1 import TABLE, filled_store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--data", type=Path, default=workloads.default_folder())
    args = parser.parse_args()

    n = workloads.W1_KEYS
    keys = np.fromfile(workloads.distinct_keys(args.data, args.rows), np.uint64).reshape(-1, n)
    rows = np.empty((n, args.dim), np.float32)
    grads = np.full((n, args.dim), 1e-3, np.float32)
    workload = f"gather rows={args.rows} dim={args.dim} batch={n} threads={args.threads}"
    with filled_store(args.rows, args.dim, args.threads) as store:
        loops: dict[str, Callable[[int], object]] = {
            "gather": lambda i: store.pull(TABLE, keys[i % len(keys)], out=rows),
            "scatter": lambda i: store.push(TABLE, keys[i % len(keys)], grads),
        }
        for name, step in loops.items():
            step_s, cpu_step_s = timed_steps(step, steps=args.steps)
            emit_rate(
                "embery",
                f"{name}_rows_per_s",
                n,
                step_s,
                workload,
                cpu_us_per_row=round(cpu_step_s / n * 1e6, 4),
            )


if __name__ == "__main__":
    main()
