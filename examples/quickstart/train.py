"""Train a click model on synthetic data whose optimum is known, and compare.

    python examples/quickstart/train.py

The rows live in this process; nothing is downloaded. Every id of the log, a 64-bit key, has a
weight and a vector in a table; the model is a DeepFM: weights, products of vectors, a small MLP.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn

import embery as em
from embery.data.synthetic import Synthetic, optimum


class DeepFM(nn.Module):
    """First order, second order, MLP; the first column of a row is the id's weight."""

    def __init__(self, schema: em.data.Schema, store: em.Store, *, dim: int = 8) -> None:
        super().__init__()
        self.embedding = em.EmbeddingBagCollection(
            tables=[
                em.Table(
                    name,
                    dim=1 + dim,
                    optimizer=em.optim.Adagrad(lr=0.1),
                    initializer=em.init.Normal(0.05, seed=seed),
                )
                for seed, name in enumerate(schema.keys)
            ],
            features=[em.Feature(name, table=name) for name in schema.keys],
            store=store,
        )
        fields, counts = len(schema.keys), len(schema.dense)
        self.shape = (fields, 1 + dim)
        self.mlp = nn.Sequential(
            nn.Linear(fields * dim + counts, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(),
            nn.Linear(32, 1),
        )  # fmt: skip
        self.linear = nn.Linear(counts, 1)

    def forward(self, batch: em.data.Batch) -> Tensor:
        """Return the log-odds of a click, float32 (rows of the batch,)."""
        rows = self.embedding(batch.sparse).values().unflatten(1, self.shape)
        weights, vectors = rows[:, :, 0], rows[:, :, 1:]
        pairs = (vectors.sum(1).square() - vectors.square().sum(1)).sum(1) / 2
        deep = self.mlp(torch.cat([vectors.flatten(1), batch.dense], 1))
        return weights.sum(1) + pairs + (deep + self.linear(batch.dense))[:, 0]


def main() -> None:
    """Parse, build, train, compare, save."""
    args = parse_arguments()
    torch.manual_seed(0)
    train = Synthetic(args.rows, batch_size=1024, shuffle=True)
    test = Synthetic(max(args.rows // 10, 20_000), batch_size=8192, offset=args.rows)
    with em.connect(args.store) as store:
        model = DeepFM(train.schema, store)
        loss = nn.functional.binary_cross_entropy_with_logits
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
        trainer = em.Trainer(model, loss, optimizer, store=store)
        trainer.fit(train)
        reached = trainer.evaluate(test)
        manifest = trainer.save(args.checkpoints)
    best = optimum(test.log, train=train.rows, test=test.rows)

    print(f"test AUC reached   {reached['auc']:.4f}   logloss {reached['logloss']:.4f}")
    print(f"learnable ceiling  {best.learnable_auc:.4f}   logloss {best.learnable_logloss:.4f}")
    print(f"best possible      {best.auc:.4f}   logloss {best.logloss:.4f}")
    print(f"saved as {manifest}; look inside with")
    print(f"    embery inspect {args.checkpoints} user")


def parse_arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2_000_000, help="rows to train on")
    parser.add_argument("--store", help="URL of the store (default: $EMBERY_STORE, else embedded)")
    parser.add_argument("--checkpoints", default="checkpoints/quickstart", help="where to save")
    return parser.parse_args()


if __name__ == "__main__":
    main()
