"""Servers that are killed under pushes: what was acknowledged is there, once."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import embery as em
from tests.integration.cluster.pushing import Cluster, Pusher, assert_counted_once

# How often a server is killed.
KILLS = 25 if os.environ.get("EMBERY_TEST_LONG") == "1" else 2


@pytest.fixture
def cluster(start: Any) -> Iterator[Cluster]:
    made = Cluster(start, "--expect-ps", "3", "--replicas", "2")
    made.add(3)
    made.wait_whole()
    yield made
    made.close()


def test_a_killed_server_loses_nothing_that_was_acknowledged(cluster: Cluster) -> None:
    random = np.random.default_rng(1)
    pushers = [Pusher(cluster.url, seed) for seed in range(2)]
    for pusher in pushers:
        pusher.start()
    try:
        for _ in range(KILLS):
            for pusher in pushers:
                pusher.wait_more(int(random.integers(1, 30)))
            cluster.kill(int(random.choice(list(cluster.owners()))))
            for pusher in pushers:
                pusher.wait_more(3)
            cluster.add()
            cluster.wait_whole()
        for pusher in pushers:
            pusher.finish()
    finally:
        for pusher in pushers:
            pusher.stopping.set()
    assert_counted_once(cluster.url, pushers)


def test_a_run_through_a_failover_ends_with_the_bits_of_an_undisturbed_one(
    cluster: Cluster,
) -> None:
    table = em.Table("adam", dim=4, optimizer=em.optim.Adam(lr=0.1), admission=em.MinCount(2))

    def train(store: em.Store, disturb: Any) -> dict[str, Any]:
        random = np.random.default_rng(7)
        store.create_table(table)
        for step in range(40):
            disturb(step)
            keys = random.integers(0, 1000, 300).astype(np.uint64)
            store.pull("adam", keys)
            store.push("adam", keys, random.normal(size=(300, 4)).astype(np.float32))
        counters = store.stats()["tables"]["adam"]
        keys = np.arange(1000, dtype=np.uint64)
        return {
            "rows": store.pull("adam", keys, train=False).tobytes(),
            "counters": {name: value for name, value in counters.items() if name != "bytes"},
            "row": store.inspect("adam", 5),
        }

    def disturb(step: int) -> None:
        if step == 20:
            cluster.kill(min(cluster.owners()))

    with em.connect("embedded:", clock=lambda: 1e9) as store:
        expected = train(store, lambda step: None)
    with em.connect(cluster.url, clock=lambda: 1e9) as store:
        assert train(store, disturb) == expected


def test_a_frozen_server_is_replaced_and_changes_nothing_when_it_wakes(cluster: Cluster) -> None:
    pusher = Pusher(cluster.url, 0)
    pusher.start()
    victim = min(cluster.owners())
    try:
        pusher.wait_more(20)
        cluster.servers[victim].process.send_signal(signal.SIGSTOP)
        pusher.wait_more(20)
        assert victim not in cluster.owners()
        cluster.servers[victim].process.send_signal(signal.SIGCONT)
        pusher.wait_more(20)
        cluster.wait_whole()
        pusher.finish()
    finally:
        cluster.servers[victim].process.send_signal(signal.SIGCONT)
        pusher.stopping.set()
    assert_counted_once(cluster.url, [pusher])
