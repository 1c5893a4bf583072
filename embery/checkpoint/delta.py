"""When a delta can be saved, and on what."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from embery.checkpoint import format as fmt
from embery.checkpoint.location import storage_of
from embery.checkpoint.reader import Checkpoint, open_unchecked
from embery.checkpoint.retention import complete_numbers, read_manifest
from embery.checkpoint.tables import Lsns
from embery.errors import CheckpointCorrupt, EmberyError
from embery.observability.logs import facts

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class DeltaBase:
    """A checkpoint, and the LSNs of all slots of each of its tables."""

    checkpoint: Checkpoint
    lsns: Mapping[str, Lsns]


def base_for(
    dest: str | os.PathLike[str], seal: str | None, states: Mapping[str, Any]
) -> DeltaBase | None:
    """Return what a delta in `dest` can build on; None, with the reason logged, if nothing.

    Args:
        dest: folder of checkpoints.
        seal: of the checkpoint that the tables were last saved in or restored from; None if that
            is not known, or not the same for all of them.
        states: of the tables by name, as they are now.
    """
    base, reason = _base_for(dest, seal, states)
    if base is None:
        _log.info("a full checkpoint is saved in place of a delta", extra=facts(reason=reason))
    return base


def _base_for(
    dest: str | os.PathLike[str], seal: str | None, states: Mapping[str, Any]
) -> tuple[DeltaBase | None, str]:
    if seal is None:
        return None, "the tables as a whole were not saved or restored before"
    try:
        base = _find(dest, seal)
        if base is None:
            return None, "the last checkpoint of these tables is not in this folder"
        if len(base.chain()) > fmt.DELTAS_MAX:
            return None, f"{fmt.DELTAS_MAX} deltas build on the last full one"
        saved = {name: base.table_state(name) for name in base.tables}
    except EmberyError as error:
        return None, f"the last checkpoint cannot be read: {error}"
    for name, state in saved.items():
        if name not in states or _lost(state) != _lost(states[name]):
            return None, f"table {name!r} has deleted more rows than it remembers"
    lsns = {name: np.ascontiguousarray(s["slot_lsns"], np.uint64) for name, s in saved.items()}
    return DeltaBase(base, lsns), ""


def _find(dest: str | os.PathLike[str], seal: str) -> Checkpoint | None:
    storage = storage_of(dest)
    for _, name in reversed(complete_numbers(storage)):
        folder = storage.child(name)
        try:
            found = read_manifest(folder)[1]
        except (CheckpointCorrupt, OSError):
            # Another one that is damaged need not keep this one from being a base.
            continue
        if found == seal:
            return open_unchecked(folder.address)
    return None


def _lost(state: Any) -> list[int]:
    """Return how many tombstones each group has forgotten."""
    lost: list[int] = np.reshape(state["groups"], (-1, 3))[:, 2].tolist()
    return lost
