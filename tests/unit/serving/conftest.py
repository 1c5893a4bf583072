"""A small trained model with every kind of feature, its checkpoint, and its bundle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import embery as em
from embery.data.block import Bags, Block, offsets_of
from embery.data.dataset import batch_of
from embery.serving.bundle import Bundle
from embery.serving.export import ExportOptions, export

DIM = 6


def schema() -> em.data.Schema:
    return em.data.Schema(
        label="click",
        dense=[em.data.Dense("price", transform="log1p"), em.data.Dense("age", default=-1.0)],
        sparse=[
            em.data.Sparse("user", hash_seed=7),
            em.data.SparseList("clicked", weights="seconds", max_length=4),
            em.data.SparseList("words"),
        ],
    )


class Model(nn.Module):
    """Two collections on shared tables, one of them not pooled."""

    def __init__(self, store: em.Store) -> None:
        super().__init__()
        tables = [
            em.Table("item", dim=DIM, optimizer=em.optim.Adagrad(lr=0.1), dtype="float16"),
            em.Table("user", dim=3, optimizer=em.optim.SGD(lr=0.1)),
        ]
        self.bags = em.EmbeddingBagCollection(
            tables=tables,
            features=[
                em.Feature("user", table="user"),
                em.Feature("clicked", table="item", pooling="mean"),
            ],
            store=store,
        )
        self.words = em.EmbeddingCollection(
            tables=tables[:1], features=[em.Feature("words", table="item")], store=store
        )
        self.norm = nn.BatchNorm1d(2)
        self.head = nn.Linear(3 + 2 * DIM + 2, 1)

    def forward(self, batch: em.data.Batch) -> Tensor:
        pooled = self.bags(batch.sparse)
        words = self.words(batch.sparse)["words"]
        longest = words.to_padded_dense().sum(1) / words.lengths().clamp(min=1)[:, None]
        parts = [pooled["user"], pooled["clicked"], longest, self.norm(batch.dense)]
        return self.head(torch.cat(parts, 1))


def random_block(rows: int, seed: int) -> Block:
    """Keys are below 100: about all of those that training saw, and a few others."""
    rng = np.random.default_rng(seed)

    def bags(lengths: Any, *, weighted: bool = False) -> Bags:
        keys = rng.integers(0, 100, lengths.sum()).astype(np.uint64)
        weights = rng.random(len(keys)).astype(np.float32) if weighted else None
        return Bags(keys, offsets_of(lengths), weights)

    return Block(
        np.zeros((rows, 1), np.float32),
        rng.random((rows, 2)).astype(np.float32),
        (
            bags(rng.integers(0, 2, rows)),
            bags(rng.integers(0, 5, rows), weighted=True),
            bags(rng.integers(0, 7, rows)),
        ),
    )


@dataclass(frozen=True, slots=True)
class Trained:
    """A model that was trained, and where it was saved."""

    model: Model
    store: em.Store
    checkpoint: str

    schema = staticmethod(schema)
    block = staticmethod(random_block)

    def export(self, dest: Path, **options: Any) -> Bundle:
        return export(
            self.model, self.checkpoint, dest, example=batch_of(random_block(8, 99), schema(), 0),
            schema=schema(), options=ExportOptions(**options),
        )  # fmt: skip

    def scores(self, block: Block) -> Any:
        """Return what the training process scores."""
        self.model.eval()
        with torch.no_grad():
            return self.model(batch_of(block, schema(), 0)).numpy().reshape(-1)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    torch.manual_seed(0)
    store = em.connect("embedded:")
    model = Model(store)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = em.Trainer(model, lambda out, _: out.square().mean(), optimizer, store=store)
    batches = [batch_of(random_block(64, seed), schema(), 0) for seed in range(5)]
    trainer.fit(batches, epochs=1)
    return Trained(model, store, trainer.save(tmp_path_factory.mktemp("checkpoints")))


@pytest.fixture(scope="session")
def bundle(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return trained.export(tmp_path_factory.mktemp("bundles") / "1")
