"""Which slots move next: pure functions, as those of `decisions`."""

from __future__ import annotations

import numpy as np

from embery.coordinator.state import ClusterOptions, ClusterState, Move, Server
from embery.routing import SLOT_COUNT, SLOTS_PER_GROUP
from embery.rpc.records import NO_SERVER, Routing

# A copy is made of at most so many slots at once.
COPY_SLOTS_MAX = 512


def plan_move(state: ClusterState, options: ClusterOptions) -> tuple[Move | None, str]:
    """Decide which slots are copied or moved next; None if they lie well.

    They lie well if each has as many copies as is wanted, and if servers that are drained have none
    and the others as many, to one. First come copies that are missing. The next move then takes
    slots of one group from the server that has most, or is drained, to the one that has fewest.
    """
    owners = state.routing.owners
    live = [n for n, server in sorted(state.servers.items()) if server.state == "live"]
    if not state.routing.version:
        return None, "slots are not placed yet"
    # Asked for ten times a second: counting is all that looks at every slot.
    counts = np.bincount(owners, minlength=max(live, default=0) + 1)
    lost = sorted(set(np.flatnonzero(counts).tolist()).difference(live))
    if lost:
        return None, f"slots move again when servers {lost} can be reached"
    takers = [n for n in live if not state.servers[n].draining]
    if not takers:
        return None, "every server is drained: none is left to take their slots"
    copy, why = _plan_copy(state, takers, options)
    return (copy, why) if copy is not None else _plan_balance(state, live, takers)


def _plan_copy(
    state: ClusterState, takers: list[int], options: ClusterOptions
) -> tuple[Move | None, str]:
    """Decide of which slots a copy is made, and where; None if all that can be are there."""
    routing = state.routing
    if options.replicas == 1:
        return None, "slots have no copies"
    lacking = ~np.isin(routing.backups, takers)
    copies = np.bincount(routing.backups, minlength=NO_SERVER + 1)
    for slot in np.flatnonzero(lacking).tolist():
        source = int(routing.owners[slot])
        others = [n for n in takers if n != source]
        if not others:
            continue
        target = min(others, key=lambda n: (copies[n], n))
        end = slot + 1
        while end < min(slot + COPY_SLOTS_MAX, SLOT_COUNT) and (
            lacking[end] and routing.owners[end] == source
        ):
            end += 1
        why = f"slots {slot} to {end - 1} of server {source} have no copy"
        return Move(slot, end, source, target, routing.version, hand_over=False), why
    return None, "all slots that can be are copied"


def _plan_balance(
    state: ClusterState, live: list[int], takers: list[int]
) -> tuple[Move | None, str]:
    owners = state.routing.owners
    counts = np.bincount(owners, minlength=NO_SERVER)
    drained = [n for n in live if state.servers[n].draining and counts[n]]
    target = min(takers, key=lambda n: (counts[n], n))
    if drained:
        source, spare = drained[0], int(counts[drained[0]])
        why = f"server {source} is drained"
    else:
        source = max(takers, key=lambda n: (counts[n], n))
        spare = int(counts[source] - counts[target]) // 2
        why = f"server {target} has {counts[target]} slots, server {source} {counts[source]}"
    fair = -(-SLOT_COUNT // len(takers))
    room = max(1, fair - int(counts[target]))
    if spare == 0:
        return None, f"slots are on {len(takers)} servers, as many on each"
    begin, end = _slots_of(state.routing, source, target, min(spare, room))
    return Move(begin, end, source, target, state.routing.version), why


def staying(state: ClusterState) -> list[Server]:
    """Return the servers that are there and are not drained."""
    return [s for s in state.servers.values() if s.state == "live" and not s.draining]


def has_drained(state: ClusterState, server: Server) -> bool:
    """Decide whether a server that is drained has nothing left that is to go to others."""
    move, routing = state.move, state.routing
    if move is not None and server.number in (move.source, move.target):
        return False
    # Copies stay where there is nobody else to have them.
    has_copies = len(staying(state)) > 1 and server.number in routing.backups
    return not has_copies and server.number not in routing.owners


def drains_wanted(state: ClusterState) -> tuple[list[Server], str]:
    """Decide which servers to drain so that no more are left than were asked for."""
    present = staying(state)
    excess = len(present) - state.wanted_servers if state.wanted_servers else 0
    if excess <= 0:
        return [], "no more servers than were asked for"
    youngest = sorted(present, key=lambda server: server.number)[-excess:]
    names = ", ".join(str(server.number) for server in youngest)
    return youngest, f"{state.wanted_servers} servers were asked for: {names} are drained"


def _slots_of(routing: Routing, server: int, target: int, most: int) -> tuple[int, int]:
    """Return the last slots of a server that follow each other within a group, at most so many.

    All or none of them have a copy on `target` already.
    """
    owned = np.flatnonzero(routing.owners == server)
    end = int(owned[-1]) + 1
    group = (end - 1) // SLOTS_PER_GROUP * SLOTS_PER_GROUP
    begin = end - 1
    is_there = routing.backups[begin] == target
    while (
        begin > max(group, end - most)
        and routing.owners[begin - 1] == server
        and (routing.backups[begin - 1] == target) == is_there
    ):
        begin -= 1
    return begin, end
