"""Train a click model on Parquet or Criteo TSV files, as a JSON file says, and test it.

    python examples/ctr/train.py examples/ctr/configs/frappe_dnn.json --data DIR --save runs/ctr

DIR holds the files that the config names. Training stops when the AUC on the valid rows has not
risen for some epochs; the best epoch is then restored and tested. What was saved becomes a bundle:

    embery export runs/ctr bundles/ctr --model examples/ctr/train.py:servable \\
        --model-args examples/ctr/configs/frappe_dnn.json DIR
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from models import MODELS
from settings import Settings
from torch import nn

import embery as em
from embery.serving.export import Servable


def main() -> None:
    """Parse, train once a seed, report."""
    args = parse_arguments()
    settings = Settings.load(args.config)
    if args.epochs is not None:
        settings = replace(settings, train=replace(settings.train, epochs=args.epochs))

    name, scores = args.config.stem, []
    for seed in args.seeds:
        metrics = train_and_test(settings, args.data, seed=seed, url=args.store, dest=args.save)
        auc, logloss = metrics["auc"], metrics["logloss"]
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
    parser.add_argument("--save", help="folder of checkpoints: save the tested model there")
    return parser.parse_args()


def train_and_test(
    settings: Settings, folder: Path, *, seed: int, url: str | None, dest: str | None
) -> dict[str, float]:
    """Train with one seed until the valid AUC falls; return the test metrics of the best epoch."""
    torch.manual_seed(seed)
    hyper = settings.train
    train, valid, test = (
        settings.data.open(folder, part, batch_size=hyper.batch_size, seed=seed)
        for part in ("train", "valid", "test")
    )
    with em.connect(url) as store:
        model = MODELS[settings.model.name](train.schema, settings, store, seed=seed)
        optimizer = torch.optim.Adam(
            model.parameters(), lr=hyper.lr, weight_decay=hyper.weight_decay
        )
        loss = nn.functional.binary_cross_entropy_with_logits
        trainer = em.Trainer(model, loss, optimizer, store=store, mode=em.Sync())
        trainer.fit(
            train, epochs=hyper.epochs, valid=valid, patience=hyper.patience, restore_best=True
        )
        if dest is not None:
            trainer.save(dest)
        return trainer.evaluate(test)


def servable(config: str, folder: str) -> Servable:
    """Return the model of a config, for `embery export`, and rows of its kind."""
    settings = Settings.load(Path(config))
    rows = settings.data.open(Path(folder), "test", batch_size=64, seed=0)
    model = MODELS[settings.model.name](rows.schema, settings, em.connect("embedded:"), seed=0)
    return Servable(model, rows)


if __name__ == "__main__":
    main()
