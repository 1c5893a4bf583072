"""Servers that join and leave under pushes: every gradient counts once, and bits stay the same."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import embery as em
from embery.cli.membership import wait_until
from embery.rpc.client import ClusterStatus, CoordinatorClient

ROWS = 20_000
DIM = 4
WAIT_S = 60.0
SUMS = em.Table("sums", dim=DIM, optimizer=em.optim.SGD(lr=1.0), initializer=em.init.Zeros())
ADAM = em.Table("adam", dim=DIM, optimizer=em.optim.Adam(lr=0.1), initializer=em.init.Uniform(0.1))


class Cluster:
    """A coordinator and servers that come and go."""

    def __init__(self, start: Callable[..., Any], start_coordinator: Callable[..., Any]) -> None:
        self._start = start
        self.coordinator_role, self.url = start_coordinator("--expect-ps", "1")
        self.servers: list[Any] = []
        self.coordinator = CoordinatorClient(self.url)

    def add(self, count: int) -> None:
        for _ in range(count):
            self.servers.append(self._start("ps", "--coordinator", self.url))
            assert " ready " in self.servers[-1].line()

    def wait_even(self) -> None:
        """Wait until all live servers that stay have as many slots, and others none."""
        assert wait_until(self.coordinator, _uneven, WAIT_S) == 0

    def owners(self) -> dict[int, int]:
        numbers, counts = np.unique(self.coordinator.status().routing.owners, return_counts=True)
        return dict(zip(numbers.tolist(), counts.tolist(), strict=True))


def _uneven(status: ClusterStatus) -> int:
    stay = [s.number for s in status.routing.servers.values() if s.state == "live"]
    stay = [n for n in stay if not status.routing.servers[n].draining]
    counts = [int((status.routing.owners == n).sum()) for n in stay]
    return max(counts) - min(counts) > 1 or sum(counts) != len(status.routing.owners)


@pytest.fixture
def cluster(start: Any, start_coordinator: Any) -> Iterator[Cluster]:
    made = Cluster(start, start_coordinator)
    made.add(1)
    yield made
    made.coordinator.close()


class Pusher(threading.Thread):
    """Pushes integer gradients, whose sums are exact, until it is stopped."""

    def __init__(self, url: str, seed: int, sums: np.ndarray[Any, Any]) -> None:
        super().__init__()
        self.url, self.seed, self.sums = url, seed, sums
        self.stopping = threading.Event()
        self.pushes = 0
        self.error: BaseException | None = None

    def run(self) -> None:
        random = np.random.default_rng(self.seed)
        try:
            with em.connect(self.url, timeout_s=WAIT_S) as store:
                store.create_table(SUMS)
                while not self.stopping.is_set():
                    keys = random.integers(0, ROWS, 500).astype(np.uint64)
                    grads = random.integers(-3, 4, (500, DIM)).astype(np.float32)
                    if self.pushes % 3 == 0:
                        store.pull("sums", keys)
                    store.push("sums", keys, grads)
                    np.subtract.at(self.sums, keys.astype(np.int64), grads)
                    self.pushes += 1
        except BaseException as error:
            self.error = error


def test_servers_come_and_go_under_pushes_and_every_gradient_counts_once(cluster: Cluster) -> None:
    sums = [np.zeros((ROWS, DIM), np.float32) for _ in range(2)]
    pushers = [Pusher(cluster.url, seed, own) for seed, own in enumerate(sums)]
    for pusher in pushers:
        pusher.start()
    try:
        cluster.add(3)
        cluster.wait_even()
        assert len(cluster.owners()) == 4
        first, second = cluster.servers[:2]
        cluster.coordinator.drain(0)
        assert second.finish(signal.SIGINT)[0] == 0
        cluster.wait_even()
        assert first.finish()[0] == 0
        assert sorted(cluster.owners()) == [2, 3]
        before = [pusher.pushes for pusher in pushers]
    finally:
        for pusher in pushers:
            pusher.stopping.set()
            pusher.join(2 * WAIT_S)
    assert [pusher.error for pusher in pushers] == [None, None]
    assert min(before) > 0
    with em.connect(cluster.url) as store:
        rows = store.pull("sums", np.arange(ROWS, dtype=np.uint64), train=False)
        expected = sums[0] + sums[1]
        assert (rows == expected).all()
        assert store.stats()["tables"]["sums"]["step"] == sum(p.pushes for p in pushers)


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
