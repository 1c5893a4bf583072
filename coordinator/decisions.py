"""What the coordinator decides: pure functions (now, state, options) -> (decision, reason)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from embery.coordinator.state import ClusterOptions, ClusterState, Server, Worker
from embery.routing import SLOT_COUNT
from embery.rpc.records import NO_SERVER, Progress, Routing, no_backups

# What a worker did so long ago counts a third in its samples a second.
RATE_SECONDS = 2.0
# So many heartbeats a server may be late before it is looked for.
OVERDUE_HEARTBEATS = 2
# So many times its lease a member has to find a coordinator that was started again.
GRACE_LEASES = 5


def contiguous_owners(servers: Sequence[int]) -> NDArray[np.uint16]:
    """Give each server one range of slots, in order of numbers, equal to one slot.

    Returns:
        uint16, shape (4096,).
    """
    numbers = np.array(sorted(servers), np.uint16)
    return numbers[np.arange(SLOT_COUNT) * len(numbers) // SLOT_COUNT]


def place(now_s: float, state: ClusterState, options: ClusterOptions) -> tuple[Routing | None, str]:
    """Decide who owns which slot and who has a copy of it; None leaves it as it is.

    Slots are placed when all expected servers are live; with copies, on the next server each. What
    a lost server held goes to those that have a copy; of what nobody has, it waits for the server.
    """
    live = [number for number, server in state.servers.items() if server.state == "live"]
    if state.routing.version:
        return _replace_lost(live, state)
    if len(live) < options.expect_servers:
        return None, f"waiting for {len(live)} of {options.expect_servers} servers"
    chosen = sorted(live)[: options.expect_servers]
    owners = contiguous_owners(chosen)
    backups = no_backups()
    if options.replicas > 1 and len(chosen) > 1:
        following = np.array(chosen[1:] + chosen[:1], np.uint16)
        backups = following[np.searchsorted(chosen, owners)]
    routing = Routing(
        version=1,
        owners=owners,
        backups=backups,
        changed_at=np.full(SLOT_COUNT, 1, np.uint64),
        servers={number: state.servers[number].info() for number in chosen},
    )
    return routing, f"all {options.expect_servers} servers are live: slots placed on {chosen}"


def _replace_lost(live: list[int], state: ClusterState) -> tuple[Routing | None, str]:
    """Decide what becomes of slots and copies of servers that are lost."""
    routing = state.routing
    gone = sorted(
        n for n in routing.holders().difference(live) if state.servers[n].state != "joining"
    )
    names = ", ".join(f"{n} ({state.servers[n].state})" for n in gone)
    orphaned = np.isin(routing.owners, gone)
    saved = orphaned & np.isin(routing.backups, live)
    bereft = np.isin(routing.backups, gone)
    if saved.any() or bereft.any():
        version = routing.version + 1
        owners = np.where(saved, routing.backups, routing.owners)
        backups = np.where(saved | bereft, NO_SERVER, routing.backups).astype(np.uint16)
        changed_at = np.where(saved, np.uint64(version), routing.changed_at)
        return with_holders(state, Routing(version, owners, backups, changed_at)), (
            f"servers that cannot be reached are replaced: {names}; {int(saved.sum())} slots go to "
            f"their copies, {int(bereft.sum())} have none for now"
        )
    missing = sorted(set(np.unique(routing.owners).tolist()).difference(live))
    if missing:
        names = ", ".join(f"{n} ({state.servers[n].state})" for n in missing)
        return None, f"slots of servers that cannot be reached wait for them: {names}"
    owning = set(np.unique(routing.owners).tolist())
    spare = sorted(set(live) - owning)
    more = f"; servers {spare} came later and own none" if spare else ""
    return None, f"slots are on {len(owning)} servers{more}"


def with_holders(state: ClusterState, routing: Routing) -> Routing:
    """Return a routing with the servers that it is about, as they are now."""
    servers = {number: state.servers[number].info() for number in sorted(routing.holders())}
    return replace(routing, servers=servers)


def expire(
    now_s: float, state: ClusterState, options: ClusterOptions
) -> tuple[list[Server | Worker], str]:
    """Decide which members have missed their lease."""
    expected: list[Server | Worker] = [
        *(s for s in state.servers.values() if s.state in ("joining", "live")),
        *(w for w in state.workers.values() if w.state == "live"),
    ]
    lost = [member for member in expected if now_s - member.heard_s > options.lease_s]
    names = ", ".join(
        f"server {m.number}" if isinstance(m, Server) else f"worker {m.rank}" for m in lost
    )
    return lost, f"not heard of for {options.lease_s:g} s: {names}" if lost else "all were heard of"


def excuse(
    waits_s: float, now_s: float, state: ClusterState, options: ClusterOptions
) -> ClusterState:
    """Give members their lease anew if the coordinator itself was frozen, or had no processor.

    It waited for half a heartbeat from `waits_s` on; what they said while it slept it has yet to
    read, and would else take all of them for lost at once, and their copies with them.
    """
    if now_s - waits_s < options.heartbeat_s / 2 + options.lease_s / 4:
        return state
    return replace(
        state,
        servers={n: replace(s, heard_s=now_s) for n, s in state.servers.items()},
        workers={n: replace(w, heard_s=now_s) for n, w in state.workers.items()},
    )


def overdue(now_s: float, state: ClusterState, options: ClusterOptions) -> list[Server]:
    """Return servers that should have been heard of, and may have ended."""
    silent_s = OVERDUE_HEARTBEATS * options.heartbeat_s
    return [s for s in state.servers.values() if s.state == "live" and now_s - s.heard_s > silent_s]


def advance(now_s: float, worker: Worker, progress: Progress) -> Worker:
    """Return what is known of a worker that says how far it is."""
    if progress.revision < worker.progress.revision:
        progress = worker.progress  # What came late.
    elapsed_s = max(now_s - worker.heard_s, 1e-9)
    rate = (progress.samples - worker.progress.samples) / elapsed_s
    kept = math.exp(-elapsed_s / RATE_SECONDS)
    return replace(
        worker,
        progress=progress,
        samples_per_s=kept * worker.samples_per_s + (1 - kept) * rate,
    )


def is_there(now_s: float, worker: Worker | None, options: ClusterOptions) -> bool:
    """Decide whether to go on counting on a worker."""
    if worker is None or worker.state in ("lost", "left"):
        return False
    # One that was recorded before the coordinator was started again may be gone since.
    return worker.state == "live" or now_s - worker.heard_s <= GRACE_LEASES * options.lease_s


def slowest(
    now_s: float, state: ClusterState, group: str, options: ClusterOptions
) -> tuple[int | None, str]:
    """Decide which clock the bound of staleness of a group counts from; None if it is not known."""
    clocks: dict[int, int] = {}
    for worker in state.workers.values():
        if not is_there(now_s, worker, options):
            continue
        if worker.state == "registered":
            # It may be the slowest of this group, and says so with its first heartbeat.
            return None, f"worker {worker.rank} was not heard of yet"
        if worker.progress.group == group and worker.progress.clock is not None:
            clocks[worker.rank] = worker.progress.clock
    if not clocks:
        return None, "no worker of the group takes batches"
    rank = min(clocks, key=lambda rank: clocks[rank])
    return clocks[rank], f"worker {rank} is the slowest"
