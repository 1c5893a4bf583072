"""Train a click model on Parquet or Criteo TSV files, as a JSON file says, and test it.

    python examples/ctr/train.py examples/ctr/configs/frappe_dnn.json --data DIR

DIR holds the files that the config names. Training stops when the AUC on the valid rows has not
risen for some epochs; the best epoch is then restored and tested. The loop over batches is written
out: `em.prefetch` reads the rows of the next ones ahead, `step()` pushes their gradients.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from evaluation import evaluate
from models import MODELS
from settings import Settings
from stopping import EarlyStopping
from torch import nn

import embery as em


def main() -> None:
    """Parse, train once a seed, report."""
    args = parse_arguments()
    settings = Settings.load(args.config)
    if args.epochs is not None:
        settings = replace(settings, train=replace(settings.train, epochs=args.epochs))

    name, scores = args.config.stem, []
    for seed in args.seeds:
        auc, logloss = train_and_test(settings, args.data, seed=seed, url=args.store)
        print(f"{name}, seed {seed}: test AUC {auc:.5f}, logloss {logloss:.5f}", flush=True)
        scores.append(auc)
    if len(scores) > 1:
        mean = sum(scores) / len(scores)
        print(f"{name}, mean of {len(scores)} seeds: test AUC {mean:.5f}")


def parse_arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path, help="a JSON file, such as configs/frappe_dnn.json")
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the files")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one run for each")
    parser.add_argument("--epochs", type=int, help="at most, instead of the config's")
    parser.add_argument("--store", help="URL of the store (default: $EMBERY_STORE, else embedded)")
    return parser.parse_args()


def train_and_test(
    settings: Settings, folder: Path, *, seed: int, url: str | None
) -> tuple[float, float]:
    """Train with one seed until the valid AUC falls; return the best epoch's test AUC, logloss."""
    torch.manual_seed(seed)
    hyper = settings.train
    train, valid, test = (
        settings.data.open(folder, part, batch_size=hyper.batch_size, seed=seed)
        for part in ("train", "valid", "test")
    )
    with em.connect(url) as store, tempfile.TemporaryDirectory() as checkpoints:
        model = MODELS[settings.model.name](train.schema, settings, store, seed=seed)
        optimizer = torch.optim.Adam(
            model.parameters(), lr=hyper.lr, weight_decay=hyper.weight_decay
        )
        stopping = EarlyStopping(model, store, Path(checkpoints), patience=hyper.patience)
        for epoch in range(hyper.epochs):
            train_epoch(model, optimizer, train, epoch=epoch)
            auc, logloss = evaluate(model, valid)
            print(f"epoch {epoch}: valid AUC {auc:.5f}, logloss {logloss:.5f}", flush=True)
            if stopping.should_stop(auc):
                break
        stopping.restore_best()
        return evaluate(model, test)


def train_epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, data: em.data.Dataset, *, epoch: int
) -> None:
    """Take one step a batch, of the dense parameters and of the rows."""
    embedding = model.inputs.embedding
    model.train()
    for batch in em.prefetch(data.batches(epoch=epoch), embedding):
        loss = nn.functional.binary_cross_entropy_with_logits(model(batch), batch.label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        embedding.step()


if __name__ == "__main__":
    main()
