"""The workloads W1 and W2: the same bytes for every system that is measured.

W1 is one table under a skewed load: one space of `n_rows` keys, a step of 4096 samples x 26
features. W2 is a small click model: 26 features with 100,000 keys each, 13 dense values, one label,
batches of 2048. Keys follow a bounded Zipf law with exponent 1.05: the rank is drawn through the
inverse of the cumulative distribution, and a fixed permutation turns ranks into keys, so that hot
keys do not lie together. Arrays are made once and kept as .npy files in a folder, which other
systems' scripts can share.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FEATURES = 26
ZIPF_EXPONENT = 1.05

W1_BATCH_ROWS = 4096
W1_KEYS = W1_BATCH_ROWS * FEATURES
W1_DIM = 64
W1_BATCHES = 40
W1_SEED = 20240501

W2_BATCH_ROWS = 2048
W2_DIM = 16
W2_VOCABULARY = 100_000
W2_DENSE = 13
W2_BATCHES = 60
W2_SEED = 20240502

DISTINCT_BATCHES = 20
DISTINCT_SEED = 7

I64 = NDArray[np.int64]
F32 = NDArray[np.float32]


def default_folder() -> Path:
    """Return where the arrays are kept: $EMBERY_BENCH_DATA, else build/bench in the repository."""
    root = Path(__file__).resolve().parent.parent
    return Path(os.environ.get("EMBERY_BENCH_DATA", root / "build" / "bench"))


def zipf_cdf(n: int, exponent: float = ZIPF_EXPONENT) -> NDArray[np.float64]:
    """Return the cumulative distribution of the ranks 1..n, float64 (n,)."""
    cumulative = np.cumsum(np.arange(1, n + 1, dtype=np.float64) ** -exponent)
    return np.asarray(cumulative / cumulative[-1])


def w1_keys(folder: Path, n_rows: int) -> I64:
    """Return the keys of W1 below `n_rows`, int64 (40, 4096 * 26), a batch sample by sample."""

    def make() -> I64:
        generator = np.random.Generator(np.random.PCG64(W1_SEED))
        key_of_rank = generator.permutation(n_rows).astype(np.int64)
        cdf = zipf_cdf(n_rows)
        return key_of_rank[np.searchsorted(cdf, generator.random((W1_BATCHES, W1_KEYS)))]

    return cached(folder / f"w1_{n_rows}_{W1_BATCHES}_{W1_SEED}.npy", make)


def w2_batches(folder: Path) -> tuple[I64, F32, F32]:
    """Return the keys, dense values and labels of W2.

    int64 (60, 2048, 26), float32 (60, 2048, 13) and float32 (60, 2048, 1).
    """

    def make() -> I64:
        generator = np.random.Generator(np.random.PCG64(W2_SEED))
        cdf = zipf_cdf(W2_VOCABULARY)
        keys = np.empty((W2_BATCHES, W2_BATCH_ROWS, FEATURES), np.int64)
        for feature in range(FEATURES):
            key_of_rank = generator.permutation(W2_VOCABULARY)
            draws = generator.random((W2_BATCHES, W2_BATCH_ROWS))
            keys[:, :, feature] = key_of_rank[np.searchsorted(cdf, draws)]
        return keys

    keys = cached(folder / f"w2ids_{W2_BATCHES}_{W2_SEED}_{W2_VOCABULARY}.npy", make)
    generator = np.random.Generator(np.random.PCG64(W2_SEED + 1))
    dense = generator.standard_normal((W2_BATCHES, W2_BATCH_ROWS, W2_DENSE)).astype(np.float32)
    label = (keys[:, :, :3].sum(-1) * 2654435761 % 97 < 25).astype(np.float32)[..., None]
    return keys, dense, label


def distinct_keys(folder: Path, n_rows: int) -> Path:
    """Return a file of native uint64 (20, 4096 * 26): uniform keys, distinct within a batch."""
    path = folder / f"distinct_{n_rows}_{DISTINCT_BATCHES}_{DISTINCT_SEED}.bin"

    def write(partial: Path) -> None:
        generator = np.random.Generator(np.random.PCG64(DISTINCT_SEED))
        draws = [generator.choice(n_rows, W1_KEYS, replace=False) for _ in range(DISTINCT_BATCHES)]
        np.stack(draws).astype(np.uint64).tofile(partial)

    if not path.exists():
        keep(path, write)
    return path


def cached(path: Path, make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
    """Return the array in `path`, mapped read-only; make and keep it first where it is missing."""
    if not path.exists():
        keep(path, lambda partial: np.save(partial, make()))
    array: NDArray[Any] = np.load(path, mmap_mode="r")
    return array


def keep(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` make a file and only then name it `path`: no reader sees a part of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.stem}.{os.getpid()}{path.suffix}")
    write(partial)
    partial.replace(path)
