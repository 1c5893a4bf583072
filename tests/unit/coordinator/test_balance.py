"""Which slots move next, from plain values; moves are played until none is left."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from embery.coordinator.balance import drains_wanted, plan_move
from embery.coordinator.decisions import contiguous_owners
from embery.coordinator.state import ClusterOptions, ClusterState, Server
from embery.routing import SLOT_COUNT, SLOTS_PER_GROUP
from embery.rpc.records import NO_SERVER, Routing, no_backups


def state_of(owning: list[int], servers: dict[int, str]) -> ClusterState:
    """Return a cluster whose slots are on `owning`; a server's state is "live", "draining", ..."""
    members = {
        number: Server(
            number, f"i{number}", f"127.0.0.1:{number}", "host",
            "live" if state == "draining" else state,  # type: ignore[arg-type]
            0.0, state == "draining",
        )
        for number, state in servers.items()
    }  # fmt: skip
    routing = Routing(7, contiguous_owners(owning), no_backups(), np.full(SLOT_COUNT, 1, np.uint64))
    return ClusterState("id", b"secret", routing, members)


def played(state: ClusterState) -> tuple[np.ndarray, int]:
    """Carry out moves until there is none; return the owners and how many slots moved."""
    moved = 0
    while (move := plan_move(state, ClusterOptions())[0]) is not None:
        owners = state.routing.owners.copy()
        assert (owners[move.begin : move.end] == move.source).all()
        assert move.begin // SLOTS_PER_GROUP == (move.end - 1) // SLOTS_PER_GROUP
        assert move.version == state.routing.version
        owners[move.begin : move.end] = move.target
        moved += move.end - move.begin
        assert moved <= SLOT_COUNT
        routing = replace(state.routing, owners=owners, version=state.routing.version + 1)
        state = replace(state, routing=routing)
    return state.routing.owners, moved


@pytest.mark.parametrize(
    ("owning", "servers", "counts", "moves"),
    [
        ([0], {0: "live"}, {0: 4096}, 0),
        ([0], {0: "live", 1: "live"}, {0: 2048, 1: 2048}, 2048),
        ([0], {0: "live", 2: "live", 5: "live"}, {0: 1365, 2: 1366, 5: 1365}, 2731),
        ([0, 1], {0: "draining", 1: "live"}, {1: 4096}, 2048),
        ([0, 1, 2], {0: "live", 1: "draining", 2: "live"}, {0: 2048, 2: 2048}, 1365),
        ([0], {0: "draining", 1: "live", 2: "left", 3: "joining"}, {1: 4096}, 4096),
    ],
)  # fmt: skip
def test_slots_end_up_even_on_servers_that_stay_and_none_moves_twice(
    owning: list[int], servers: dict[int, str], counts: dict[int, int], moves: int
) -> None:
    owners, moved = played(state_of(owning, servers))
    assert dict(zip(*map(list, np.unique(owners, return_counts=True)), strict=True)) == counts
    assert moved == moves


@pytest.mark.parametrize(
    ("servers", "reason"),
    [
        ({0: "live", 1: "lost", 2: "live"}, r"when servers \[1\] can be reached"),
        ({0: "draining", 1: "draining"}, "every server is drained"),
    ],
)
def test_nothing_moves_without_all_owners_or_takers(servers: dict[int, str], reason: str) -> None:
    move, why = plan_move(state_of([0, 1], servers), ClusterOptions())
    assert move is None
    assert re.search(reason, why)


def test_slots_that_are_not_placed_do_not_move() -> None:
    assert plan_move(ClusterState("id", b"", Routing.unplaced({})), ClusterOptions())[0] is None


def test_of_too_many_servers_the_youngest_are_drained() -> None:
    state = state_of([0, 1, 2], {0: "live", 1: "live", 2: "live", 3: "draining", 4: "lost"})
    assert drains_wanted(state)[0] == []
    surplus, reason = drains_wanted(replace(state, wanted_servers=1))
    assert [server.number for server in surplus] == [1, 2]
    assert "1, 2 are drained" in reason
    assert drains_wanted(replace(state, wanted_servers=3))[0] == []


def test_slots_without_a_copy_get_one_on_the_server_with_fewest_copies_of_others() -> None:
    state = state_of([0, 1], {0: "live", 1: "live", 2: "live"})
    copied = state.routing.backups.copy()
    copied[:1024] = 1
    state = replace(state, routing=replace(state.routing, backups=copied))
    move, why = plan_move(state, ClusterOptions(replicas=2))
    assert move is not None
    assert (move.begin, move.end, move.source, move.target) == (1024, 1536, 0, 2)
    assert not move.hand_over
    assert why == "slots 1024 to 1535 of server 0 have no copy"


def test_copies_leave_a_server_that_is_drained_and_no_slot_is_copied_to_its_owner() -> None:
    state = state_of([0], {0: "live", 1: "draining", 2: "live"})
    backups = np.full(SLOT_COUNT, 1, np.uint16)
    state = replace(state, routing=replace(state.routing, backups=backups))
    for _ in range(SLOT_COUNT):
        move, _ = plan_move(state, ClusterOptions(replicas=2))
        if move is None or move.hand_over:
            break
        assert (move.source, move.target) == (0, 2)
        backups = state.routing.backups.copy()
        backups[move.begin : move.end] = move.target
        state = replace(state, routing=replace(state.routing, backups=backups))
    assert (state.routing.backups == 2).all()


def test_without_another_server_slots_stay_without_a_copy() -> None:
    state = state_of([0], {0: "live", 1: "lost"})
    assert (state.routing.backups == NO_SERVER).all()
    assert plan_move(state, ClusterOptions(replicas=2))[0] is None
