"""Servers that are killed under pushes: what was acknowledged is there, once."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import embery as em
from embery.rpc.client import CoordinatorClient
from embery.rpc.records import NO_SERVER

ROWS = 5_000
DIM = 4
WAIT_S = 60.0
# How often a server is killed.
KILLS = 25 if os.environ.get("EMBERY_TEST_LONG") == "1" else 2
SUMS = em.Table("sums", dim=DIM, optimizer=em.optim.SGD(lr=1.0), initializer=em.init.Zeros())


class Cluster:
    """A coordinator and servers, each slot on two of them."""

    def __init__(self, start: Any, start_coordinator: Any, servers: int) -> None:
        self._start = start
        self.role, self.url = start_coordinator("--expect-ps", str(servers), "--replicas", "2")
        self.coordinator = CoordinatorClient(self.url)
        # By number.
        self.servers: dict[int, Any] = {}
        for _ in range(servers):
            self.add()

    def add(self) -> None:
        role = self._start("ps", "--coordinator", self.url)
        assert " ready " in role.line()
        self.servers[len(self.servers)] = role

    def wait_whole(self) -> None:
        """Wait until every slot has a copy."""
        deadline = time.monotonic() + WAIT_S
        version = 0
        while time.monotonic() < deadline:
            routing = self.coordinator.routing(version, WAIT_S)
            if not (routing.backups == NO_SERVER).any():
                return
            version = routing.version
        raise AssertionError("slots were left without a copy")

    def owners(self) -> list[int]:
        return sorted(set(self.coordinator.status().routing.owners.tolist()))

    def kill(self, number: int) -> None:
        self.servers[number].process.send_signal(signal.SIGKILL)
        self.servers[number].process.wait(WAIT_S)


@pytest.fixture
def cluster(start: Any, start_coordinator: Any) -> Iterator[Cluster]:
    made = Cluster(start, start_coordinator, servers=3)
    made.wait_whole()
    yield made
    made.coordinator.close()


class Pusher(threading.Thread):
    """Pushes integer gradients, whose sums are exact, until it is stopped."""

    def __init__(self, url: str, seed: int) -> None:
        super().__init__()
        self.url, self.seed = url, seed
        self.sums = np.zeros((ROWS, DIM), np.float32)
        self.stopping = threading.Event()
        self.pushed = threading.Condition()
        self.pushes = 0
        self.error: BaseException | None = None

    def run(self) -> None:
        random = np.random.default_rng(self.seed)
        try:
            with em.connect(self.url, timeout_s=WAIT_S) as store:
                store.create_table(SUMS)
                while not self.stopping.is_set():
                    keys = random.integers(0, ROWS, 200).astype(np.uint64)
                    grads = random.integers(-3, 4, (200, DIM)).astype(np.float32)
                    store.push("sums", keys, grads)
                    np.subtract.at(self.sums, keys.astype(np.int64), grads)
                    with self.pushed:
                        self.pushes += 1
                        self.pushed.notify_all()
        except BaseException as error:
            self.error = error
            with self.pushed:
                self.pushed.notify_all()

    def wait_more(self, count: int) -> None:
        """Wait until it has pushed so often again."""
        with self.pushed:
            wanted = self.pushes + count
            assert self.pushed.wait_for(lambda: self.pushes >= wanted or self.error, WAIT_S)
        assert self.error is None, self.error


def test_a_killed_server_loses_nothing_that_was_acknowledged(cluster: Cluster) -> None:
    random = np.random.default_rng(1)
    pushers = [Pusher(cluster.url, seed) for seed in range(2)]
    for pusher in pushers:
        pusher.start()
    try:
        for _ in range(KILLS):
            for pusher in pushers:
                pusher.wait_more(int(random.integers(1, 30)))
            cluster.kill(int(random.choice(cluster.owners())))
            for pusher in pushers:
                pusher.wait_more(3)
            cluster.add()
            cluster.wait_whole()
    finally:
        for pusher in pushers:
            pusher.stopping.set()
        for pusher in pushers:
            pusher.join(2 * WAIT_S)
    assert [pusher.error for pusher in pushers] == [None, None]
    with em.connect(cluster.url) as store:
        rows = store.pull("sums", np.arange(ROWS, dtype=np.uint64), train=False)
        assert (rows == pushers[0].sums + pushers[1].sums).all()


def test_a_run_through_a_failover_ends_with_the_bits_of_an_undisturbed_one(
    cluster: Cluster,
) -> None:
    table = em.Table("adam", dim=DIM, optimizer=em.optim.Adam(lr=0.1), admission=em.MinCount(2))

    def train(store: em.Store, disturb: Any) -> dict[str, Any]:
        random = np.random.default_rng(7)
        store.create_table(table)
        for step in range(40):
            disturb(step)
            keys = random.integers(0, 1000, 300).astype(np.uint64)
            store.pull("adam", keys)
            store.push("adam", keys, random.normal(size=(300, DIM)).astype(np.float32))
        counters = store.stats()["tables"]["adam"]
        keys = np.arange(1000, dtype=np.uint64)
        return {
            "rows": store.pull("adam", keys, train=False).tobytes(),
            "counters": {name: value for name, value in counters.items() if name != "bytes"},
            "row": store.inspect("adam", 5),
        }

    def disturb(step: int) -> None:
        if step == 20:
            cluster.kill(cluster.owners()[0])

    with em.connect("embedded:", clock=lambda: 1e9) as store:
        expected = train(store, lambda step: None)
    with em.connect(cluster.url, clock=lambda: 1e9) as store:
        assert train(store, disturb) == expected


def test_a_frozen_server_is_replaced_and_changes_nothing_when_it_wakes(cluster: Cluster) -> None:
    pusher = Pusher(cluster.url, 0)
    pusher.start()
    victim = cluster.owners()[0]
    try:
        pusher.wait_more(20)
        cluster.servers[victim].process.send_signal(signal.SIGSTOP)
        pusher.wait_more(20)
        assert victim not in cluster.owners()
        cluster.servers[victim].process.send_signal(signal.SIGCONT)
        pusher.wait_more(20)
        cluster.wait_whole()
    finally:
        cluster.servers[victim].process.send_signal(signal.SIGCONT)
        pusher.stopping.set()
        pusher.join(2 * WAIT_S)
    assert pusher.error is None
    with em.connect(cluster.url) as store:
        rows = store.pull("sums", np.arange(ROWS, dtype=np.uint64), train=False)
        assert (rows == pusher.sums).all()
