"""Makes the bundle of the model that `benchmarks.serving` serves."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

import embery as em
from benchmarks.w2 import KEYS, Dense, embeddings
from benchmarks.workloads import W2_DENSE, W2_VOCABULARY
from embery.data.schema import Dense as Number
from embery.data.schema import Schema
from embery.serving.export import ExportOptions, export

EXAMPLES = 8
SEED = 20240503


class Clicks(nn.Module):
    """The model of W2 as one module: a batch in, a logit a sample out."""

    def __init__(self, store: em.Store) -> None:
        super().__init__()
        self.embeddings = embeddings(store, em.optim.SGD(lr=0.01))
        self.dense = Dense()

    def forward(self, batch: em.data.Batch) -> torch.Tensor:
        """Return logits (batch, 1)."""
        assert batch.dense is not None
        logits: torch.Tensor = self.dense(batch.dense, self.embeddings(batch.sparse).values())
        return logits


def export_w2(bundle: Path) -> None:
    """Write a bundle of 26 x 100,000 rows and two MLPs as they are before training."""
    torch.manual_seed(SEED)
    generator = np.random.Generator(np.random.PCG64(SEED))
    numbers = [f"d{i}" for i in range(W2_DENSE)]
    keys = generator.integers(0, W2_VOCABULARY, EXAMPLES * len(KEYS))
    example = em.data.Batch(
        label=torch.zeros(EXAMPLES, 1),
        dense=torch.from_numpy(generator.standard_normal((EXAMPLES, W2_DENSE)).astype(np.float32)),
        sparse=em.KeyedJaggedTensor(
            KEYS,
            torch.from_numpy(keys),
            lengths=torch.ones(len(keys), dtype=torch.int32),
        ),
        index=0,
    )
    with em.connect("embedded:") as store, tempfile.TemporaryDirectory() as checkpoints:
        model = Clicks(store).eval()
        store.checkpoint(checkpoints)
        export(
            model,
            checkpoints,
            bundle,
            example=example,
            schema=Schema(label="y", dense=[Number(name) for name in numbers], sparse=KEYS),
            options=ExportOptions(model_version=1),
        )
