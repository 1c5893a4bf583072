"""Train a model of behaviour sequences on MovieLens-100K: will the user like this movie?

    python examples/sequence/train.py --data DIR

DIR holds interactions.parquet, items.parquet and users.parquet. The model sees what the user had
liked and disliked before; the baseline it is printed beside knows only how well a movie was liked.
The test rows are the last tenth in time, and six in seven are of users never seen in training.
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
        loss = nn.functional.binary_cross_entropy_with_logits
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        trainer = em.Trainer(model, loss, optimizer, store=store)
        trainer.fit(train, epochs=args.epochs, valid=valid, restore_best=True)
        reached = trainer.evaluate(test)["auc"]
        baseline = popularity_auc(train, test)
    print(f"test AUC of the sequence model  {reached:.4f}")
    print(f"test AUC of popularity          {baseline:.4f}")


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
