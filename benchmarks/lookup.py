"""Look-ups in a bundle's table: 26 features x 64 samples of one key each, by one thread.

Rows and keys are uniformly drawn, so that every row comes from memory. The plain gather reads the
same keys through a perfect index, in turn with the look-ups, on small pages, which mapped files
have too, and on huge ones.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks import workloads
from benchmarks.compare import build_limit
from benchmarks.measure import emit
from embery import _native
from embery.serving.table_file import Rows, TableLayout, write_table

FEATURES, SAMPLES, CALLS, WRITE_ROWS = 26, 64, 3000, 100_000
KEYS = FEATURES * SAMPLES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--dim", type=int, default=64, choices=(16, 64))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", type=Path, default=workloads.default_folder())
    args = parser.parse_args()

    args.data.mkdir(parents=True, exist_ok=True)
    table = _native.FrozenTable(str(_table_file(args.data, args.rows, args.dim)))
    lookup = _native.FrozenLookup([table], [(0, "sum")] * FEATURES)
    keys = np.random.default_rng(1).integers(0, args.rows, (CALLS, KEYS), dtype=np.uint64)
    keys.tofile(args.data / "lookup-keys.u64")
    lengths = np.ones(KEYS, np.int64)
    pooled = np.empty((SAMPLES, FEATURES * args.dim), np.float32)
    gathered = np.empty((KEYS, args.dim), np.float32)
    limit = [str(build_limit(args.data)), str(args.rows), str(args.dim), "1", str(CALLS - 10)]
    contenders: dict[str, Callable[[], float]] = {
        "pool": lambda: _rate(keys, lambda k: lookup.pool(k, lengths, None, SAMPLES, pooled)),
        "gather": lambda: _rate(keys, lambda k: lookup.gather(0, k, gathered)),
        **{
            f"limit_{pages}_pages": lambda pages=pages: _limit(
                [*limit, pages, str(KEYS), str(args.data / "lookup-keys.u64")]
            )
            for pages in ("small", "huge")
        },
    }
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(args.rounds):
        for name, measure in contenders.items():
            rates[name].append(measure())
    workload = f"lookup rows={args.rows} dim={args.dim} batch={KEYS} threads=1"
    for name, of_rounds in rates.items():
        emit(name, "rows_per_s", statistics.median(of_rounds), "rows/s", workload)
    for name in ("pool", "gather"):
        for pages in ("small", "huge"):
            pairs = zip(rates[name], rates[f"limit_{pages}_pages"], strict=True)
            ratios = sorted(round(own / other, 2) for own, other in pairs)
            emit(
                name, f"ratio_to_limit_{pages}_pages", statistics.median(ratios), "", workload,
                low=ratios[0], high=ratios[-1],
            )  # fmt: skip


def _table_file(folder: Path, rows: int, dim: int) -> Path:
    path = folder / f"lookup-{rows}-{dim}.rows"
    if not path.exists():

        def passes() -> Iterator[Rows]:
            for begin in range(0, rows, WRITE_ROWS):
                keys = np.arange(begin, min(begin + WRITE_ROWS, rows), dtype=np.uint64)
                yield keys, np.repeat(keys.astype(np.float32)[:, None], dim, 1).view(np.uint8)

        write_table(path, TableLayout("item", "float32", dim, rows), passes)
    return path


def _rate(keys: np.ndarray, call: Callable[[np.ndarray], object]) -> float:
    """Return rows a second of the median call."""
    took_s = []
    for some in keys:
        began_s = time.perf_counter()
        call(some)
        took_s.append(time.perf_counter() - began_s)
    return KEYS / statistics.median(took_s)


def _limit(command: list[str]) -> float:
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout)["value"])


if __name__ == "__main__":
    main()
