"""A training step that several workers take together.

With shares of n_r of the B rows of a batch, the loss of the whole is the sum of n_r / B times the
mean over each share. So each worker's gradients, scaled alike, add up to those of the whole batch:
the dense ones here, those of the rows in the servers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from embery.store import F32, U64
from embery.worker.embedding import EmbeddingModule
from embery.worker.gradients import Push, take_pushes
from embery.worker.group import DenseWire, Share, WorkerGroup
from embery.worker.low_rank import LowRankSum


def learn_share(
    group: WorkerGroup,
    model: nn.Module,
    loss_fn: Callable[[Any, Tensor], Tensor],
    optimizer: torch.optim.Optimizer | None,
    share: Share,
    *,
    wire: DenseWire | LowRankSum = "float32",
    interrupted: bool = False,
) -> tuple[float, Any, bool, bool]:
    """Compute the gradients of the whole batch, from this worker's share and those of the others.

    Args:
        loss_fn: must return the mean over the rows it is given.
        wire: how dense gradients travel.
        interrupted: whether this worker was asked to end.

    Returns:
        the loss of the whole batch, this worker's output (None if its share is empty), whether any
        worker was asked to end, and whether any is called to another group. All workers return the
        same but for the output; none has changed a parameter.
    """
    if optimizer is not None:
        optimizer.zero_grad()
    output, value = None, 0.0
    if len(share):
        output = model(share)
        loss = loss_fn(output, share.label) * share.weight
        value = float(loss.detach())
        if math.isfinite(value):
            loss.backward()  # type: ignore[no-untyped-call]
    numbers = [value, float(interrupted), float(group.call != "none")]
    value, asked, called = group.reduce(optimizer, numbers, wire=wire)
    return value, output, asked > 0, called > 0


def joint_pushes(embeddings: Sequence[EmbeddingModule]) -> list[Push]:
    """Take the gradients out of `embeddings`, which share a store, as one push with all its tables.

    A worker takes part in every push, if only with no keys: the servers wait for each.
    """
    found = take_pushes(embeddings) if any(len(e.gradients) for e in embeddings) else []
    keys: dict[str, U64] = {}
    grads: dict[str, F32] = {}
    for embedding in embeddings:
        for name in embedding.table_names:
            keys.setdefault(name, np.empty(0, np.uint64))
            grads.setdefault(name, np.empty((0, embedding.tables[name].dim), np.float32))
    for push in found:
        keys.update(zip(push.tables, push.keys, strict=True))
        grads.update(zip(push.tables, push.grads, strict=True))
    return [Push(embeddings[0].store, list(keys), list(keys.values()), list(grads.values()))]
