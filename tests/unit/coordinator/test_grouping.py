"""Who trains together, decided without a clock or a network."""

from __future__ import annotations

from dataclasses import replace

import pytest

from embery.coordinator.grouping import Call, Formation, call, form
from embery.coordinator.state import (
    Candidate,
    ClusterOptions,
    Gathering,
    Group,
    Worker,
    WorkerState,
)

OPTIONS = ClusterOptions()
TWO = Group(epoch=4, members=(7, 3))


def workers(states: dict[int, WorkerState], world_size: int = 2) -> dict[int, Worker]:
    return {
        client: Worker(client, str(client), 0, world_size, state, 0.0)
        for client, state in states.items()
    }


def asking(*clients: int, starting: tuple[int, ...] = (), **steps: int) -> dict[int, Candidate]:
    return {
        c: Candidate(c, 4, steps.get(f"c{c}", 10), "h:1", c in starting)
        for c in (*clients, *starting)
    }


def formed(gathering: Gathering, states: dict[int, WorkerState]) -> Formation | None:
    return form(0.0, gathering, workers(states), OPTIONS)[0]


def test_the_first_group_waits_for_all_workers_of_the_run() -> None:
    one = Gathering(Group(), asking(starting=(2,)))
    assert formed(one, {2: "live", 1: "live"}) is None
    both = replace(one, candidates=asking(starting=(2, 1)))
    assert formed(both, {2: "live", 1: "live"}) == Formation((1, 2), (), None)


def test_a_group_ends_when_all_that_are_there_have_asked() -> None:
    assert formed(Gathering(TWO, asking(7)), {7: "live", 3: "live"}) is None
    lost = formed(Gathering(TWO, asking(7)), {7: "live", 3: "lost"})
    assert lost == Formation((7,), (), 7)


def test_those_who_stay_keep_their_order_and_the_one_ahead_has_the_state() -> None:
    states: dict[int, WorkerState] = {7: "live", 3: "live", 1: "live"}
    found = formed(Gathering(TWO, asking(7, 3, starting=(1,), c3=11)), states)
    assert found == Formation((7, 3, 1), (), 3)


def test_who_is_too_many_is_dismissed_unless_it_may_be_ahead() -> None:
    states: dict[int, WorkerState] = {7: "live", 3: "live"}
    even = Gathering(TWO, asking(7, 3), wanted=1)
    assert formed(even, states) == Formation((7,), (3,), 7)
    torn = replace(even, candidates=asking(7, 3, c3=11))
    assert formed(torn, states) == Formation((7, 3), (), 3)


@pytest.mark.parametrize(
    ("gathering", "other", "expected"),
    [
        (Gathering(TWO), "live", "none"),
        (Gathering(TWO), "lost", "now"),
        (Gathering(TWO, asking(3)), "live", "now"),
        (Gathering(TWO, asking(starting=(9,))), "live", "soon"),
        (Gathering(TWO, asking(starting=(9,)), wanted=2), "live", "none"),
        (Gathering(TWO, wanted=1), "live", "soon"),
        (Gathering(replace(TWO, fenced=frozenset({7}))), "live", "fenced"),
    ],
)
def test_members_are_called_when_the_group_is_to_change(
    gathering: Gathering, other: WorkerState, expected: Call
) -> None:
    known = workers({7: "live", 3: other, 9: "live"})
    assert call(0.0, gathering, 7, known, OPTIONS) == expected
    assert call(0.0, gathering, 9, known, OPTIONS) == "none"
