"""What goes wrong, and in which order: drawn from a seed before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

KINDS = (
    "kill server",
    "kill server",
    "freeze server",
    "kill coordinator",
    "freeze coordinator",
    "add server",
    "drain server",
    "scale servers",
    "kill client",
    "freeze client",
)
# What only root can do.
MACHINE_KINDS = ("cut off server", "cut off coordinator", "fill disk")
# A third of the faults of servers meet a coordinator that is killed, too, and started again.
COORDINATOR_SHARE = 1 / 3
FREEZE_SECONDS_MAX = 6.0
PUSHES_MAX = 40


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault that is to come.

    Args:
        kind: what happens, one of `KINDS` or `MACHINE_KINDS`.
        choice: below 1; which of the servers there are then, in the order of their numbers.
        pushes: of every pusher before it, and between its parts.
        seconds: for how long something is frozen or cut off.
        with_coordinator: the coordinator is killed at the same time; a fault of the coordinator
            itself comes while slots are at rest, so that pushes must go on without it.
    """

    kind: str
    choice: float
    pushes: int
    seconds: float
    with_coordinator: bool


def schedule(seed: int, count: int, kinds: Sequence[str] = KINDS) -> list[Fault]:
    """Return the faults of a seed, in their order."""
    random = np.random.default_rng(seed)
    return [
        Fault(
            kind=str(random.choice(kinds)),
            choice=float(random.random()),
            pushes=int(random.integers(1, PUSHES_MAX)),
            seconds=float(random.uniform(0.1, FREEZE_SECONDS_MAX)),
            with_coordinator=bool(random.random() < COORDINATOR_SHARE),
        )
        for _ in range(count)
    ]
