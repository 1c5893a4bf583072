"""Train a model of behaviour sequences on MovieLens-100K: will the user like this movie?

    python examples/sequence/train.py --data DIR

DIR holds interactions.parquet, items.parquet and users.parquet. The model sees what the user had
liked and disliked before; the baseline it is printed beside knows only how well a movie was liked.
The test rows are the last tenth in time, and most of their users were never seen in training.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import torch
from histories import SCHEMA, write_histories
from model import InterestModel
from popularity import popularity_auc
from torch import nn

import embery as em
from embery.data.synthetic import expected_auc


def main() -> None:
    """Parse, prepare, train, compare."""
    args = parse_arguments()
    torch.manual_seed(args.seed)
    with tempfile.TemporaryDirectory() as folder, em.connect(args.store) as store:
        write_histories(args.data, Path(folder))
        train, valid, test = (
            em.data.Parquet(
                Path(folder) / f"{part}.parquet",
                schema=SCHEMA, batch_size=512, shuffle=part == "train", seed=args.seed,
            )
            for part in ("train", "valid", "test")
        )  # fmt: skip
        model = InterestModel(store, seed=args.seed)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        for epoch in range(args.epochs):
            train_epoch(model, optimizer, train, epoch=epoch)
            print(f"epoch {epoch}: valid AUC {auc(model, valid):.4f}", flush=True)
        reached = auc(model, test)
        baseline = popularity_auc(train, test)
    print(f"test AUC of the sequence model  {reached:.4f}")
    print(f"test AUC of popularity          {baseline:.4f}")


def train_epoch(
    model: InterestModel,
    optimizer: torch.optim.Optimizer,
    data: em.data.Dataset,
    *,
    epoch: int,
) -> None:
    """Take one step a batch, of the dense parameters and of the rows."""
    model.train()
    for batch in em.prefetch(data.batches(epoch=epoch), [model.movies, model.profile]):
        loss = nn.functional.binary_cross_entropy_with_logits(model(batch), batch.label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.movies.step()
        model.profile.step()


@torch.no_grad()
def auc(model: InterestModel, data: em.data.Dataset) -> float:
    """Return the AUC; eval() inserts no rows, so that a user never seen reads as zeros."""
    model.eval()
    parts = [(model(batch), batch.label) for batch in data]
    logits, labels = (torch.cat(part).double().numpy() for part in zip(*parts, strict=True))
    return expected_auc(logits, labels)


def parse_arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data",
        type=Path,
        default=os.environ.get("ML_100K"),
        help="folder of the data (default: $ML_100K)",
    )
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--store", help="URL of the store (default: $EMBERY_STORE, else embedded)")
    args = parser.parse_args()
    if args.data is None:
        parser.error("say where the data are: --data DIR or $ML_100K")
    return args


if __name__ == "__main__":
    main()
