"""Stop when the valid rows say so, and go back to the best epoch."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

import embery as em


class EarlyStopping:
    """Keeps a checkpoint of the best epoch: the rows in the store and the model's parameters.

    Args:
        model: whose parameters and buffers are kept with the rows.
        store: where the rows are.
        folder: for the checkpoints.
        patience: epochs in a row without a better AUC before it is time to stop.
    """

    def __init__(self, model: nn.Module, store: em.Store, folder: Path, *, patience: int) -> None:
        self.model, self.store, self.folder, self.patience = model, store, folder, patience
        self.best_auc, self.epochs_without = float("-inf"), 0

    def should_stop(self, auc: float) -> bool:
        """Note the AUC of an epoch, save if it is the best, and say whether to stop."""
        if auc > self.best_auc:
            self.best_auc, self.epochs_without = auc, 0
            parameters = {name: value.numpy() for name, value in self.model.state_dict().items()}
            self.store.checkpoint(self.folder, state={"model": parameters})
        else:
            self.epochs_without += 1
        return self.epochs_without >= self.patience

    def restore_best(self) -> None:
        """Put the rows and the parameters of the best epoch back."""
        state = self.store.restore(self.folder).state
        self.model.load_state_dict(
            {name: torch.from_numpy(value) for name, value in state["model"].items()}
        )
