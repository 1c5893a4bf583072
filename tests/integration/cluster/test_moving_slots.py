"""Servers that join and leave under pushes: every gradient counts once, and bits stay the same."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import embery as em
from tests.integration.cluster.pushing import (
    DIM,
    SUMS,
    Cluster,
    Pusher,
    assert_counted_once,
)

ADAM = em.Table("adam", dim=DIM, optimizer=em.optim.Adam(lr=0.1), initializer=em.init.Uniform(0.1))


@pytest.fixture
def cluster(start: Any) -> Iterator[Cluster]:
    made = Cluster(start)
    made.add()
    yield made
    made.close()


def test_servers_come_and_go_under_pushes_and_every_gradient_counts_once(cluster: Cluster) -> None:
    pushers = [Pusher(cluster.url, seed) for seed in range(2)]
    for pusher in pushers:
        pusher.start()
    try:
        cluster.add(3)
        cluster.wait_even()
        assert len(cluster.owners()) == 4
        first, second = cluster.servers[0], cluster.servers[1]
        cluster.coordinator.drain(0)
        assert second.finish(signal.SIGINT)[0] == 0
        cluster.wait_even()
        assert first.finish()[0] == 0
        assert sorted(cluster.owners()) == [2, 3]
        for pusher in pushers:
            assert pusher.pushes
            pusher.finish()
    finally:
        for pusher in pushers:
            pusher.stopping.set()
    assert_counted_once(cluster.url, pushers)


def trained(store: em.Store, disturb: Callable[[int], None]) -> dict[str, Any]:
    """Train both tables for 60 steps; return all that they hold."""
    random = np.random.default_rng(7)
    for table in (SUMS, ADAM):
        store.create_table(table)
    for step in range(60):
        disturb(step)
        for name in ("sums", "adam"):
            keys = random.integers(0, 3000, 400).astype(np.uint64)
            store.pull(name, keys)
            store.push(name, keys, random.normal(size=(400, DIM)).astype(np.float32))
    disturb(60)
    keys = np.arange(3000, dtype=np.uint64)
    stats = store.stats()["tables"]
    return {
        "rows": {name: store.pull(name, keys, train=False).tobytes() for name in stats},
        "stats": {n: {k: v for k, v in s.items() if k != "bytes"} for n, s in stats.items()},
        "row": store.inspect("adam", 5),
    }


def test_a_run_through_moves_ends_with_the_bits_of_an_undisturbed_one(cluster: Cluster) -> None:
    with em.connect("embedded:", clock=lambda: 1e9) as store:
        expected = trained(store, lambda step: None)

    def disturb(step: int) -> None:
        if step == 10:
            cluster.add(2)
        if step in (30, 60):
            # Rows on their way are counted on both sides.
            cluster.wait_even()
        if step == 30:
            cluster.coordinator.drain(0)

    with em.connect(cluster.url, clock=lambda: 1e9) as store:
        found = trained(store, disturb)
    assert found == expected
    assert sorted(cluster.owners()) == [1, 2]


def test_the_last_server_cannot_be_drained(cluster: Cluster) -> None:
    with pytest.raises(em.InvalidArgument, match="server 0 is the last one"):
        cluster.coordinator.drain(0)
    with pytest.raises(em.InvalidArgument, match="no server 9"):
        cluster.coordinator.drain(9)
