"""Which workers train together: pure functions, as those of `decisions`.

The workers of a run are a group. They change at the boundary of a step: each that is there asks for
the next group, and what is decided when all have asked is the same for all of them. A worker that
is lost is waited for until its lease has ended; the group that goes on without it has another
epoch, by which what it still does is told apart and refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from embery.coordinator.decisions import is_there
from embery.coordinator.state import ClusterOptions, Gathering, Worker

# What a worker shall do: go on; ask for a new group after the step under way; or at once, for
# others wait for it, or will never come; or end, for the others went on without it.
Call = Literal["none", "soon", "now", "fenced"]


@dataclass(frozen=True, slots=True)
class Formation:
    """The next group.

    Args:
        members: their client numbers, in the order of their ranks: first those that stay.
        dismissed: those that were there, or came, and are too many.
        source: whose state the others take; None where all begin.
    """

    members: tuple[int, ...]
    dismissed: tuple[int, ...]
    source: int | None


def form(
    now_s: float, gathering: Gathering, workers: Mapping[int, Worker], options: ClusterOptions
) -> tuple[Formation | None, str]:
    """Decide on the next group, if all who belong to it have asked for it."""
    group, candidates, wanted = gathering.group, gathering.candidates, gathering.wanted
    present = {c for c in (*group.members, *candidates) if is_there(now_s, workers.get(c), options)}
    staying = [client for client in group.members if client in present]
    missing = [client for client in staying if client not in candidates]
    if missing:
        return None, f"waits for the workers of clients {missing}"
    joining = sorted(c for c in candidates if c in present and c not in staying)
    if not (staying or joining):
        return None, "nobody asks for a group"
    needed = wanted or max(workers[client].world_size for client in (*staying, *joining))
    if not staying and len(joining) < needed:
        return None, f"waits for {needed - len(joining)} more workers to begin with"
    order = [*staying, *joining]
    going = [candidates[client] for client in order if not candidates[client].starting]
    # What one worker alone has done of a step must not leave with it.
    is_even = len({candidate.step for candidate in going}) <= 1
    count = wanted if wanted and is_even else len(order)
    members, dismissed = tuple(order[:count]), tuple(order[count:])
    going = [candidate for candidate in going if candidate.client in members]
    source = max(going, key=lambda candidate: candidate.step).client if going else None
    return Formation(members, dismissed, source), (
        f"clients {list(members)} go on: {len(joining)} came, {len(dismissed)} are too many, "
        f"{len(group.members) - len(staying)} are gone"
    )


def call(
    now_s: float,
    gathering: Gathering,
    client: int,
    workers: Mapping[int, Worker],
    options: ClusterOptions,
) -> Call:
    """Decide what a worker shall do about its group."""
    group, candidates, wanted = gathering.group, gathering.candidates, gathering.wanted
    if client in group.fenced:
        return "fenced"
    if client not in group.members:
        return "none"
    others = [member for member in group.members if member != client]
    states = [workers[member].state for member in others if member in workers]
    asking = any(member in candidates for member in others)
    if asking or "lost" in states:
        return "now"
    count = sum(is_there(now_s, workers.get(member), options) for member in group.members)
    waiting = any(
        c not in group.members and is_there(now_s, workers.get(c), options) for c in candidates
    )
    if (waiting and (not wanted or count < wanted)) or 0 < wanted < count:
        return "soon"
    return "none"
