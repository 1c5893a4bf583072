"""What the coordinator decides, from plain values."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from embery.coordinator.decisions import advance, contiguous_owners, expire, place, slowest
from embery.coordinator.state import ClusterOptions, ClusterState, Server, Worker
from embery.errors import InvalidArgument
from embery.rpc.records import Progress, Routing

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
