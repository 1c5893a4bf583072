"""A run that takes steps, and the exporter that follows it; both are killed at any moment.

    updates_program.py SCORES SAVED BUNDLES UPDATES

Each update changes rows and the dense part, notes the scores of the request below in
SCORES/<version>.json, as the model itself gives them, saves a checkpoint, and exports it. Started
again it goes on from the last checkpoint.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import embery as em
from embery import checkpoint as checkpoints
from embery.data.schema import Schema
from embery.serving.bundle import Bundle
from embery.serving.export import export
from embery.serving.follow import Follower, FollowOptions

KEYS = np.arange(64, dtype=np.uint64)
SAMPLES = 8


class Clicks(nn.Module):
    """One table and one layer."""

    def __init__(self, store: em.Store) -> None:
        super().__init__()
        table = em.Table("user", dim=4, initializer=em.init.Uniform(1.0, seed=3))
        self.rows = em.EmbeddingBagCollection(
            tables=[table], features=[em.Feature("user", table="user")], store=store
        )
        self.top = nn.Linear(5, 1)

    def forward(self, batch: em.data.Batch) -> torch.Tensor:
        assert batch.dense is not None
        scores: torch.Tensor = self.top(
            torch.cat([batch.dense, self.rows(batch.sparse).values()], 1)
        )
        return scores


def request() -> em.data.Batch:
    """Return the samples whose scores are noted: users 0 to 7, x from 0 to 7."""
    return em.data.Batch(
        label=torch.zeros(SAMPLES, 1),
        dense=torch.arange(SAMPLES, dtype=torch.float32).reshape(-1, 1),
        sparse=em.KeyedJaggedTensor(
            ["user"], torch.arange(SAMPLES), lengths=torch.ones(SAMPLES, dtype=torch.int32)
        ),
        index=0,
    )


def main(scores: Path, saved: Path, bundles: Path, updates: int) -> None:
    torch.manual_seed(7)
    with em.connect("embedded:") as store:
        model = Clicks(store)
        done = 0
        if checkpoints.newest(str(saved)) is not None:
            done = int(store.restore(str(saved)).state["done"])
        else:
            store.pull("user", KEYS)

        def export_one(checkpoint: Path, dest: Path, base: Path | None) -> Bundle:
            schema = Schema(label="y", dense=["x"], sparse=["user"])
            return export(model, checkpoint, dest, example=request(), schema=schema, base=base)

        follower = Follower(saved, bundles, export_one, FollowOptions(share_max=0.5, keep=4))

        def put_dense(number: int) -> None:
            """Give the dense part the numbers of an update."""
            with torch.no_grad():
                nn.init.constant_(model.top.bias, 10.0 * number)
                nn.init.constant_(model.top.weight, 0.5 + number % 3)

        put_dense(done)
        follower.step()
        for number in range(done + 1, updates + 1):
            generator = np.random.default_rng(number)
            keys = generator.choice(KEYS, 12, replace=False)
            store.push("user", keys, generator.normal(size=(12, 4)).astype(np.float32))
            put_dense(number)
            note(scores, number, model)
            store.checkpoint(str(saved), state={"done": number})
            follower.step()
            print(f"made {number}", flush=True)


def note(folder: Path, number: int, model: Any) -> None:
    """Note what the model says in an update, under the number of its checkpoint."""
    with torch.no_grad():
        found = model.eval()(request()).flatten().tolist()
    model.train()
    new = folder / f".{number}.json"
    new.write_text(json.dumps(found))
    new.rename(folder / f"{number}.json")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), updates=int(sys.argv[4]))
