"""What the coordinator decides, from plain values."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from embery.coordinator.decisions import (
    advance,
    contiguous_owners,
    excuse,
    expire,
    overdue,
    place,
    slowest,
)
from embery.coordinator.state import ClusterOptions, ClusterState, Server, Worker
from embery.errors import InvalidArgument
from embery.rpc.records import NO_SERVER, Progress, Routing

OPTIONS = ClusterOptions(expect_servers=2, lease_s=2.0)


def state_of(*servers: str) -> ClusterState:
    """Return the state of a cluster whose servers, by number, are in these states."""
    members = {
        number: Server(number, f"i{number}", f"127.0.0.1:{number}", "host", state, 0.0)  # type: ignore[arg-type]
        for number, state in enumerate(servers)
    }
    return ClusterState("id", b"secret", Routing.unplaced({}), members)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7, 1024, 4096])
def test_ranges_are_contiguous_and_equal_to_one_slot(count: int) -> None:
    numbers = [2 * n + 1 for n in range(count)]
    owners = contiguous_owners(numbers[::-1])
    assert owners.shape == (4096,)
    assert (np.diff(owners.astype(int)) >= 0).all()
    slots = np.bincount(owners)[numbers]
    assert slots.sum() == 4096
    assert slots.max() - slots.min() <= 1


@pytest.mark.parametrize(
    ("servers", "reason"),
    [
        ((), "waiting for 0 of 2 servers"),
        (("live",), "waiting for 1 of 2 servers"),
        (("live", "joining"), "waiting for 1 of 2 servers"),
        (("left", "lost", "live"), "waiting for 1 of 2 servers"),
    ],
)
def test_slots_wait_for_the_expected_servers(servers: tuple[str, ...], reason: str) -> None:
    assert place(0.0, state_of(*servers), OPTIONS) == (None, reason)


def test_slots_are_placed_on_live_servers_only() -> None:
    routing, reason = place(0.0, state_of("lost", "live", "live", "live"), OPTIONS)
    assert routing is not None
    assert routing.version == 1
    assert (routing.changed_at == 1).all()
    assert sorted(routing.servers) == np.unique(routing.owners).tolist() == [1, 2]
    assert "[1, 2]" in reason


def test_slots_that_are_placed_stay() -> None:
    state = state_of("live", "live")
    routing, _ = place(0.0, state, OPTIONS)
    assert routing is not None
    placed = replace(state, routing=routing)
    assert place(0.0, placed, OPTIONS) == (None, "slots are on 2 servers")
    later = replace(placed, servers={**placed.servers, **state_of("live", "lost", "live").servers})
    decision, reason = place(0.0, later, OPTIONS)
    assert decision is None
    assert "1 (lost)" in reason


def test_a_member_is_lost_after_its_lease() -> None:
    state = state_of("live", "joining", "left", "lost")
    worker = Worker(1, "w", 0, 2, "live", 0.0)
    state = replace(state, workers={1: worker, 2: replace(worker, client=2, state="registered")})
    assert expire(2.0, state, OPTIONS)[0] == []
    lost, reason = expire(2.1, state, OPTIONS)
    assert lost == [state.servers[0], state.servers[1], worker]
    assert "server 0, server 1, worker 0" in reason


def test_samples_a_second_follow_what_a_worker_does() -> None:
    worker = Worker(1, "w", 0, 2, "live", 0.0)
    for beat in range(1, 101):
        told = Progress(revision=beat, batches=beat, samples=20 * beat)
        worker = replace(advance(0.2 * beat, worker, told), heard_s=0.2 * beat)
    assert worker.progress == told
    assert worker.samples_per_s == pytest.approx(100, rel=0.01)
    # It does nothing for as long.
    for beat in range(101, 201):
        worker = replace(advance(0.2 * beat, worker, told), heard_s=0.2 * beat)
    assert worker.samples_per_s < 1


def test_progress_that_comes_late_sets_nothing_back() -> None:
    told = Progress(revision=7, batches=9, samples=90)
    worker = Worker(1, "w", 0, 2, "live", 0.0, told)
    assert advance(1.0, worker, Progress(revision=6, batches=8, samples=80)).progress == told


def test_the_slowest_is_one_that_is_there_and_takes_batches() -> None:
    def worker(rank: int, state: str, clock: int | None, group: str = "g") -> Worker:
        progress = Progress(clock=clock, group=group)
        return Worker(rank, str(rank), rank, 9, state, 0.0, progress)  # type: ignore[arg-type]

    members = [
        worker(0, "live", 7),
        worker(1, "live", 5),
        worker(2, "lost", 1),
        worker(3, "left", 1),
        worker(4, "live", None),
        worker(5, "live", 2, group="another"),
    ]
    state = replace(state_of(), workers={w.client: w for w in members})
    assert slowest(1.0, state, "g", OPTIONS) == (5, "worker 1 is the slowest")
    assert slowest(1.0, state, "nobody", OPTIONS)[0] is None
    # Known from before a restart: it may be slower than any, until it is clear that it is gone.
    unheard = replace(state, workers={**state.workers, 9: worker(9, "registered", None)})
    assert slowest(1.0, unheard, "g", OPTIONS) == (None, "worker 9 was not heard of yet")
    assert slowest(1e3, unheard, "g", OPTIONS)[0] == 5


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (ClusterOptions(expect_servers=0), "--expect-ps"),
        (ClusterOptions(heartbeat_s=0.0), "--heartbeat"),
        (ClusterOptions(heartbeat_s=1.0, lease_s=1.0), "--lease"),
    ],
)
def test_options_name_what_is_wrong(options: ClusterOptions, field: str) -> None:
    with pytest.raises(InvalidArgument, match=field):
        options.validate()


def copied_state(*servers: str) -> ClusterState:
    """Return a state in which each server's slots have a copy on the next one."""
    state = state_of(*["live"] * len(servers))
    options = ClusterOptions(expect_servers=len(servers), replicas=2)
    routing, _ = place(0.0, state, options)
    assert routing is not None
    return replace(state_of(*servers), routing=routing)


def test_copies_are_placed_on_the_next_server() -> None:
    routing = copied_state("live", "live", "live").routing
    assert ((routing.owners.astype(int) + 1) % 3 == routing.backups).all()


def test_a_lost_server_is_replaced_by_those_that_have_copies() -> None:
    before = copied_state("lost", "live", "live")
    routing, reason = place(0.0, before, ClusterOptions(replicas=2))
    assert routing is not None
    orphaned = before.routing.owners == 0
    assert (routing.owners[orphaned] == 1).all()
    assert (routing.owners[~orphaned] == before.routing.owners[~orphaned]).all()
    # Its copies are gone too: those of server 2, and those that have become slots.
    lacking = routing.backups == NO_SERVER
    assert (lacking == (orphaned | (before.routing.owners == 2))).all()
    assert ((routing.changed_at == 2) == orphaned).all()
    assert sorted(routing.servers) == [1, 2]
    assert reason.startswith("servers that cannot be reached are replaced: 0 (lost); 1366 slots")
    assert place(0.0, replace(before, routing=routing), ClusterOptions(replicas=2))[0] is None


def test_slots_whose_owner_and_copy_are_both_lost_wait_for_them() -> None:
    before = copied_state("lost", "lost", "live")
    routing, _ = place(0.0, before, ClusterOptions(replicas=2))
    assert routing is not None
    waiting = before.routing.owners == 0
    assert (routing.owners[waiting] == 0).all()
    after = replace(before, routing=routing)
    assert place(0.0, after, ClusterOptions(replicas=2)) == (
        None,
        "slots of servers that cannot be reached wait for them: 0 (lost)",
    )


def test_a_coordinator_that_was_just_started_replaces_nobody() -> None:
    assert (
        place(0.0, copied_state("joining", "live", "live"), ClusterOptions(replicas=2))[0] is None
    )


def test_only_live_servers_that_are_late_are_looked_for() -> None:
    state = state_of("live", "live", "lost")
    late = replace(state.servers[0], heard_s=8.0)
    state = replace(
        state, servers={**state.servers, 0: late, 1: replace(late, number=1, heard_s=9.5)}
    )
    assert [s.number for s in overdue(10.0, state, ClusterOptions())] == [0]


def test_a_coordinator_that_was_frozen_gives_members_their_lease_anew() -> None:
    state = state_of("live", "live")
    late_s = 10 * OPTIONS.lease_s
    assert len(expire(late_s, state, OPTIONS)[0]) == 2
    assert excuse(0.0, OPTIONS.heartbeat_s, state, OPTIONS) is state
    excused = excuse(0.0, late_s, state, OPTIONS)
    assert expire(late_s, excused, OPTIONS)[0] == []
    assert len(expire(2 * late_s, excused, OPTIONS)[0]) == 2
