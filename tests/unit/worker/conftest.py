"""A small click model with everything that has state: rows, batch norm, dropout, Adam."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import embery as em
from embery.launch.local import reserve_port

ROOT = Path(__file__).parents[3]
KEYS = 40


class ClickModel(nn.Module):
    """Logits (B,) of features a (pooled) and s (a sequence), which share table "item"."""

    def __init__(self, store: em.Store, table: em.Table) -> None:
        super().__init__()
        self.bags = em.EmbeddingBagCollection(
            tables=[table],
            features=[em.Feature("a", table=table.name, pooling="mean")],
            store=store,
        )
        self.sequence = em.EmbeddingCollection(
            tables=[table], features=[em.Feature("s", table=table.name)], store=store
        )
        self.norm = nn.BatchNorm1d(table.dim)
        self.net = nn.Sequential(nn.Linear(table.dim, 8), nn.ReLU(), nn.Dropout(0.1))
        self.top = nn.Linear(8, 1)

    def forward(self, batch: em.data.Batch) -> torch.Tensor:
        rows = self.sequence(batch.sparse)["s"].to_padded_dense(2).sum(1)
        return self.top(self.net(self.norm(self.bags(batch.sparse)["a"] + rows)))[:, 0]


@dataclass
class Trial:
    """A trainer with its store; the same seed builds the same one."""

    store: em.Store
    model: ClickModel
    trainer: em.Trainer

    def snapshot(self) -> dict[str, Any]:
        """Everything that training changes."""
        optimizer = self.trainer.dense_optimizer
        assert optimizer is not None
        return {
            "rows": [self.store.inspect("item", key) for key in range(KEYS)],
            "dense": {k: v.numpy().copy() for k, v in self.model.state_dict().items()},
            "adam": {
                (i, k): v.numpy().copy()
                for i, state in optimizer.state_dict()["state"].items()
                for k, v in state.items()
            },
            "rng": torch.get_rng_state().numpy().copy(),
        }


MakeTrial = Callable[..., Trial]


@pytest.fixture(autouse=True)
def one_torch_thread() -> Iterator[None]:
    """These models are tiny: torch's pool would only wait for its own threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def make_trial() -> Iterator[MakeTrial]:
    stores = []

    def make(mode: Any = None, *, table: em.Table | None = None, loss: Any = None) -> Trial:
        torch.manual_seed(11)
        table = table or em.Table("item", dim=4, optimizer=em.optim.Adam(lr=0.05))
        store = em.connect("embedded:", threads=1, clock=lambda: 1_000_000.0)
        stores.append(store)
        model = ClickModel(store, table)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        loss = loss or nn.functional.binary_cross_entropy_with_logits
        return Trial(store, model, em.Trainer(model, loss, optimizer, store=store, mode=mode))

    yield make
    for store in stores:
        store.close()


def _make_batches(count: int, *, seed: int = 0, samples: int = 16) -> list[em.data.Batch]:
    """Clicks follow the parity of the ids, so that there is something to learn."""
    random = np.random.default_rng(seed)
    batches = []
    for index in range(count):
        lengths = random.integers(1, 3, 2 * samples)
        ids = (KEYS * random.random(int(lengths.sum())) ** 2).astype(np.int64)
        starts = np.cumsum(lengths[:samples]) - lengths[:samples]
        odd = np.add.reduceat(ids[: lengths[:samples].sum()] % 2, starts)
        label = (odd + 0.3 * random.normal(size=samples) > 0.7).astype(np.float32)
        kjt = em.KeyedJaggedTensor(
            ["a", "s"], torch.from_numpy(ids), lengths=torch.from_numpy(lengths)
        )
        batches.append(
            em.data.Batch(label=torch.from_numpy(label), dense=None, sparse=kjt, index=index)
        )
    return batches


@pytest.fixture
def make_batches() -> Callable[..., list[em.data.Batch]]:
    """Return `make(count, seed=0, samples=16)`."""
    return _make_batches


@pytest.fixture
def batches() -> list[em.data.Batch]:
    return _make_batches(20)


@pytest.fixture
def run_workers() -> Callable[..., list[subprocess.CompletedProcess[str]]]:
    """Return what runs a program as each of the workers of a group."""
    return run_group


def run_group(
    program: str, *, world: int, hosts: str | None = None
) -> list[subprocess.CompletedProcess[str]]:
    """Run `program` as each of `world` workers; return how each ended, in the order of the ranks.

    Args:
        hosts: a letter for each rank, equal for those on one host; None is what the machine says.
    """
    with closing(reserve_port()) as reserved:
        shared = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "EMBERY_WORLD_SIZE": str(world),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(reserved.getsockname()[1]),
            "GLOO_SOCKET_IFNAME": "lo",
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-c", textwrap.dedent(program)]
        running = [
            subprocess.Popen(
                command,
                env={
                    **shared,
                    "EMBERY_RANK": str(rank),
                    "EMBERY_HOST_IDENTITY": "" if hosts is None else hosts[rank],
                },
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(world)
        ]
        try:
            ended = [process.communicate(timeout=50) for process in running]
        finally:
            for process in running:
                process.kill()
    return [
        subprocess.CompletedProcess(command, process.returncode, *said)
        for process, said in zip(running, ended, strict=True)
    ]
