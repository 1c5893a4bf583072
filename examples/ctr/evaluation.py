"""AUC and logloss of a model on a data set."""

from __future__ import annotations

import torch
from torch import nn

import embery as em
from embery.data.synthetic import expected_auc


@torch.no_grad()
def evaluate(model: nn.Module, data: em.data.Dataset) -> tuple[float, float]:
    """Return AUC and logloss; the model is in eval() mode afterwards, which inserts no rows."""
    model.eval()
    parts = [(model(batch), batch.label) for batch in data]
    logits, labels = (torch.cat(part).double() for part in zip(*parts, strict=True))
    logloss = nn.functional.binary_cross_entropy_with_logits(logits, labels)
    # A label is a probability of a click that happens to be certain.
    return expected_auc(logits.numpy(), labels.numpy()), logloss.item()
