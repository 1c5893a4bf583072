"""What workers still owe to the rows, in a checkpoint: the residuals of all of them, by rank.

Each worker rounds gradients of its own, so each has residuals of its own. The one that leads saves
them side by side. A run that goes on with as many workers gives each its own back, and so goes on
to the same bits; with fewer some add up, with more some begin with none, and nothing is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from embery.rpc.trees import pack, unpack
from embery.store import Store
from embery.worker.group import WorkerGroup


def gather_residuals(store: Store, group: WorkerGroup) -> list[dict[str, Any]]:
    """Return the residuals of each rank where `group` leads, elsewhere none.

    All workers make this call. One rank's are sent at a time, so that no worker but the one that
    leads needs memory for those of others beside its own.
    """
    own = store.residuals()
    if group.alone:
        return [own]
    message = np.frombuffer(pack(own), np.uint8)
    sizes = np.zeros(group.world_size, np.int64)
    sizes[group.rank] = message.size
    group.add_up_arrays(sizes)
    found: list[dict[str, Any]] = []
    for rank, size in enumerate(sizes):
        # The sum with zeros is what the only one who has it gave.
        sent = message.copy() if rank == group.rank else np.zeros(int(size), np.uint8)
        group.add_up_arrays(sent)
        if group.leads:
            found.append(unpack([sent.tobytes()]))
    return found


def load_residuals(store: Store, group: WorkerGroup, saved: Sequence[dict[str, Any]]) -> None:
    """Give this worker its part of what `gather_residuals` returned, in place of what it has."""
    store.load_residuals(saved[group.rank :: group.world_size])
