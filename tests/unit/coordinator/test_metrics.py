"""What the coordinator shows of a state."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from embery.coordinator.metrics import reading_samples, state_samples
from embery.coordinator.state import ClusterState, Move, Piece, Reading, Server, Worker
from embery.rpc.records import Progress, Routing, no_backups

SERVERS = {
    0: Server(0, "s0", "127.0.0.1:1", "host", "live", heard_s=9.0),
    1: Server(1, "s1", "127.0.0.1:2", "host", "lost", heard_s=4.0),
    7: Server(7, "s7", "127.0.0.1:3", "host", "live", heard_s=10.0, draining=True),
    8: Server(8, "s8", "127.0.0.1:4", "host", "left", heard_s=1.0, draining=True),
}
OWNERS = np.repeat(np.array([0, 1, 7], np.uint16), [2000, 2000, 96])


def shown(samples: object) -> dict[str, float]:
    """Return the values by name and labels."""
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for sample in samples  # type: ignore[attr-defined]
    }


def test_servers_slots_and_the_move_under_way_are_shown() -> None:
    routing = Routing(
        5, OWNERS, no_backups(), np.ones(4096, np.uint64), {n: SERVERS[n].info() for n in (0, 1, 7)}
    )
    state = ClusterState("id", b"secret", routing, SERVERS)
    found = shown(state_samples(state, 10.0))
    assert found["routing_version"] == 5
    assert (found["servers live"], found["servers lost"], found["servers joining"]) == (2, 1, 0)
    assert found["servers_draining"] == 1
    assert [found[f"slots {n}"] for n in (0, 1, 7)] == [2000, 2000, 96]
    assert found["slots_moving"] == 0
    ages = {name: age for name, age in found.items() if name.startswith("heartbeat")}
    assert ages == {f"heartbeat_age_seconds server {n}": a for n, a in {0: 1, 1: 6, 7: 0}.items()}
    moving = replace(state, move=Move(4000, 4096, 7, 0, 5))
    assert shown(state_samples(moving, 10.0))["slots_moving"] == 96


def test_live_workers_show_how_fast_they_are() -> None:
    progress = Progress(batches=3, samples=12, staleness=2)
    workers = {
        1: Worker(1, "w1", 0, 2, "live", 9.5, progress, samples_per_s=40.0),
        2: Worker(2, "w2", 1, 2, "lost", 3.0, progress, samples_per_s=40.0),
    }
    state = ClusterState("id", b"secret", Routing.unplaced({}), {}, workers)
    found = shown(state_samples(state, 10.0))
    assert found["worker_samples_per_second 1"] == 40
    assert found["worker_staleness 1"] == 2
    assert "worker_staleness 2" not in found
    assert found["heartbeat_age_seconds worker 2"] == 7


def test_pieces_of_open_readings_add_up() -> None:
    pieces = {0: Piece(0, finished=True), 1: Piece(1, holder=3), 2: Piece(2)}
    open_one = Reading("epoch", "a plan", 10, pieces)
    over = replace(open_one, stopped=True)
    found = shown(reading_samples([open_one, over]))
    names = ("finished", "held", "waiting")
    assert [found[f"reading_pieces {name}"] for name in names] == [1, 1, 8]
    assert set(shown(reading_samples([])).values()) == {0}
