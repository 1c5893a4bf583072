"""W2 on the embedded store: training a click model of 26 tables in one process.

The dense part is the peers': a bottom MLP 13-512-256-64, a top MLP over its output and the 26
pooled rows, Adam on both. A step is all from raw arrays to updated rows: making the jagged batch,
forward, backward, both optimizers. It is timed from the end of one step to the end of the next, so
that what a look-ahead does between them counts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import nn

import embery as em
from benchmarks import workloads
from benchmarks.measure import cpu_s, emit_rate
from benchmarks.workloads import FEATURES, W2_BATCH_ROWS, W2_DENSE, W2_DIM, W2_VOCABULARY

WARM_STEPS = 5
KEYS = [f"f{feature}" for feature in range(FEATURES)]
OPTIMIZERS = {"rowwise_adagrad": em.optim.RowwiseAdagrad, "adagrad": em.optim.Adagrad}


class Dense(nn.Module):
    """The dense part: both MLPs of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.bottom = mlp(W2_DENSE, 512, 256, 64)
        self.top = mlp(64 + FEATURES * W2_DIM, 512, 256, 1)[:-1]

    def forward(self, dense: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, 1) of dense (batch, 13) and pooled rows (batch, 26 * 16)."""
        logits: torch.Tensor = self.top(torch.cat([self.bottom(dense), pooled], 1))
        return logits


def mlp(*widths: int) -> nn.Sequential:
    """Return linear layers of these widths, each with a ReLU behind it."""
    layers: list[nn.Module] = []
    for narrow, wide in pairwise(widths):
        layers += [nn.Linear(narrow, wide), nn.ReLU()]
    return nn.Sequential(*layers)


def embeddings(store: em.Store, optimizer: em.optim.Optimizer) -> em.EmbeddingBagCollection:
    """Return the 26 tables as a module; every row exists already, as it does in the peers."""
    tables = [
        em.Table(f"t{f}", dim=W2_DIM, optimizer=optimizer, initializer=em.init.Uniform(0.01))
        for f in range(FEATURES)
    ]
    features = [
        em.Feature(key, table=t.name, pooling="sum") for key, t in zip(KEYS, tables, strict=True)
    ]
    module = em.EmbeddingBagCollection(tables=tables, features=features, store=store)
    every_key = np.arange(W2_VOCABULARY, dtype=np.uint64)
    for table in tables:
        store.pull(table.name, every_key)
    return module


def batches(folder: Path, steps: int) -> Iterator[em.data.Batch]:
    """Yield `steps` batches, made from the raw arrays when they are asked for."""
    keys, dense, label = workloads.w2_batches(folder)
    lengths = torch.ones(W2_BATCH_ROWS * FEATURES, dtype=torch.int32)
    for step in range(steps):
        i = step % len(keys)
        values = torch.from_numpy(np.ascontiguousarray(np.array(keys[i]).T)).view(-1)
        yield em.data.Batch(
            label=torch.from_numpy(label[i]),
            dense=torch.from_numpy(dense[i]),
            sparse=em.KeyedJaggedTensor(KEYS, values, lengths=lengths),
            index=step,
        )


def train(
    emb: em.EmbeddingBagCollection, loader: Iterator[em.data.Batch]
) -> tuple[list[float], list[float], float]:
    """Train over `loader`; return losses, seconds of steps after the warm ones, CPU s a step."""
    net, loss_fn = Dense(), nn.BCEWithLogitsLoss()
    dense_optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    losses, step_s = [], []
    cpu_before_s, start = 0.0, time.perf_counter()
    for batch in loader:
        assert batch.dense is not None
        loss = loss_fn(net(batch.dense, emb(batch.sparse).values()), batch.label)
        dense_optimizer.zero_grad()
        loss.backward()
        dense_optimizer.step()
        emb.step()
        losses.append(loss.detach())
        now = time.perf_counter()
        if len(losses) > WARM_STEPS:
            step_s.append(now - start)
        elif len(losses) == WARM_STEPS:
            cpu_before_s = cpu_s()
        start = now
    return [float(x) for x in losses], step_s, (cpu_s() - cpu_before_s) / len(step_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="rowwise_adagrad")
    parser.add_argument(
        "--look-ahead", type=int, default=0, help="batches ahead; 0 is the plain loop"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--data", type=Path, default=workloads.default_folder())
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    with em.connect("embedded:", threads=args.threads) as store:
        emb = embeddings(store, OPTIMIZERS[args.optimizer](lr=0.01))
        loader = batches(args.data, WARM_STEPS + args.steps)
        if args.look_ahead:
            loader = iter(em.prefetch(loader, emb, depth=args.look_ahead))
        losses, step_s, cpu_step_s = train(emb, loader)
    emit_rate(
        "embery", "train_samples_per_s", W2_BATCH_ROWS, step_s,
        f"W2 batch=2048/worker dim=16 procs=1 threads={args.threads}", unit="samples/s",
        optimizer=args.optimizer, look_ahead=args.look_ahead,
        cpu_us_per_sample=round(cpu_step_s / W2_BATCH_ROWS * 1e6, 2),
        loss_first=round(losses[0], 4), loss_last=round(losses[-1], 4),
    )  # fmt: skip


if __name__ == "__main__":
    main()
