"""Clusters whose servers come and go, and clients whose pushes can be added up exactly.

Gradients are small integers and the optimizer is SGD with a rate of 1, so a table is the sum of all
that was pushed to it, bit for bit, whatever the order. A push is a pure function of its client's
seed and its number. It also adds 1 to a row of its own in a ledger, which so counts how often it
was applied.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import embery as em
from embery.cli.membership import wait_until
from embery.rpc.client import ClusterStatus, CoordinatorClient
from tests.integration.roles import RunningRole, ready_line

ROWS, DIM, BATCH = 10_000, 4, 200
WAIT_S = 60.0
SUMS = em.Table("sums", dim=DIM, optimizer=em.optim.SGD(lr=1.0), initializer=em.init.Zeros())
LEDGER = em.Table("ledger", dim=1, optimizer=em.optim.SGD(lr=1.0), initializer=em.init.Zeros())


class Cluster:
    """A coordinator that can be started again, and servers that come and go.

    Args:
        start: starts a role, as the fixture of that name does.
        arguments: of the coordinator; with `--state FILE` it can be started again.
        options: of the processes, see `RunningRole`.
    """

    def __init__(self, start: Callable[..., RunningRole], *arguments: str, **options: Any) -> None:
        self._start, self._arguments, self._options = start, arguments, options
        self.role = start("coordinator", *arguments, **options)
        self.url = ready_line(self.role).split()[-1]
        self.coordinator = CoordinatorClient(self.url)
        # Those that run, by number.
        self.servers: dict[int, RunningRole] = {}

    def add(self, count: int = 1, *arguments: str, **options: Any) -> None:
        for _ in range(count):
            role = self._start("ps", "--coordinator", self.url, *arguments, **options)
            self.servers[int(ready_line(role).split()[1])] = role

    def kill(self, number: int) -> None:
        role = self.servers.pop(number)
        role.process.send_signal(signal.SIGKILL)
        role.process.wait(WAIT_S)

    def restart_coordinator(self) -> None:
        """Kill the coordinator, if it runs, and start it again at the same address."""
        self.role.process.kill()
        self.role.process.wait(WAIT_S)
        self.coordinator.close()
        port = self.url.rpartition(":")[2]
        self.role = self._start("coordinator", *self._arguments, "--port", port, **self._options)
        assert ready_line(self.role).split()[-1] == self.url
        self.coordinator = CoordinatorClient(self.url)
        # Connections of a process to one address have their state in common: a new one, too, may
        # wait for a while before it connects again. Only a heartbeat waits with it.
        self.coordinator.heartbeat("nobody", timeout_s=WAIT_S)

    def close(self) -> None:
        self.coordinator.close()

    def owners(self) -> dict[int, int]:
        """Return how many slots each server owns."""
        numbers, counts = np.unique(self.coordinator.status().routing.owners, return_counts=True)
        return dict(zip(numbers.tolist(), counts.tolist(), strict=True))

    def wait(self, left: Callable[[ClusterStatus], int], what: str) -> None:
        """Wait until nothing is left to do."""
        assert wait_until(self.coordinator, left, WAIT_S) == 0, (
            f"{what}; the coordinator says: {self.coordinator.status().reason}"
        )

    def wait_whole(self) -> None:
        """Wait until every slot has a copy, on a server that runs."""

        def lacking(status: ClusterStatus) -> int:
            routing = status.routing
            holders = np.concatenate([routing.owners, routing.backups])
            # Before they are placed there are no slots at all.
            return int((~np.isin(holders, list(self.servers))).sum()) if routing.version else 1

        self.wait(lacking, "slots were left without a copy")

    def wait_gone(self, number: int) -> None:
        """Wait until the coordinator knows that a server is lost."""

        def live(status: ClusterStatus) -> int:
            routing = status.routing
            known = routing.servers.get(number)
            return int(known is not None and known.state == "live")

        self.wait(live, f"server {number} is not known to be lost")

    def wait_even(self) -> None:
        """Wait until all live servers that stay have as many slots, and others none."""

        def uneven(status: ClusterStatus) -> int:
            servers = status.routing.servers.values()
            stay = [s.number for s in servers if s.state == "live" and not s.draining]
            counts = [int((status.routing.owners == n).sum()) for n in stay]
            return max(counts) - min(counts) > 1 or sum(counts) != len(status.routing.owners)

        self.wait(uneven, "slots were left uneven")


def pushed(seed: int, number: int) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
    """Return keys, of shape (BATCH,), and gradients, of shape (BATCH, DIM), of a push."""
    random = np.random.default_rng((seed, number))
    keys = random.integers(0, ROWS, BATCH, dtype=np.uint64)
    return keys, random.integers(-3, 4, (BATCH, DIM)).astype(np.float32)


def ledger_keys(seed: int, numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the keys of the rows that count pushes."""
    return numbers | np.uint64(seed << 32)


class Pusher(threading.Thread):
    """Pushes, and pulls now and then, until it is stopped."""

    def __init__(self, url: str, seed: int) -> None:
        super().__init__()
        self.url, self.seed = url, seed
        self.sums = np.zeros((ROWS, DIM), np.float32)
        self.stopping = threading.Event()
        self._acknowledged = threading.Condition()
        self.pushes = 0
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            with em.connect(self.url, timeout_s=WAIT_S) as store:
                store.create_table(SUMS)
                store.create_table(LEDGER)
                while not self.stopping.is_set():
                    self._push(store)
        except BaseException as error:
            self.error = error
        with self._acknowledged:
            self._acknowledged.notify_all()

    def _push(self, store: em.Store) -> None:
        keys, grads = pushed(self.seed, self.pushes)
        if self.pushes % 3 == 0:
            store.pull("sums", keys)
        own = ledger_keys(self.seed, np.array([self.pushes], np.uint64))
        store.push_batch(["sums", "ledger"], [keys, own], [grads, np.full((1, 1), -1, np.float32)])
        np.subtract.at(self.sums, keys.astype(np.int64), grads)
        with self._acknowledged:
            self.pushes += 1
            self._acknowledged.notify_all()

    def wait_more(self, count: int) -> None:
        """Wait until it has pushed so often again."""
        with self._acknowledged:
            wanted = self.pushes + count
            assert self._acknowledged.wait_for(lambda: self.pushes >= wanted or self.error, WAIT_S)
        assert self.error is None, self.error

    def finish(self) -> None:
        """Stop it; fail if one of its calls did."""
        self.stopping.set()
        self.join(2 * WAIT_S)
        assert not self.is_alive()
        assert self.error is None, self.error


def assert_counted_once(url: str, pushers: Sequence[Pusher]) -> None:
    """Assert that the tables are the sum of what was acknowledged, and each push counted once."""
    with em.connect(url, timeout_s=WAIT_S) as store:
        rows = store.pull("sums", np.arange(ROWS, dtype=np.uint64), train=False)
        for pusher in pushers:
            keys = ledger_keys(pusher.seed, np.arange(pusher.pushes, dtype=np.uint64))
            counts = store.pull("ledger", keys, train=False)[:, 0]
            wrong = np.flatnonzero(counts != 1)
            assert not len(wrong), (
                f"pushes {wrong[:10]} of client {pusher.seed} count {counts[wrong][:10]}"
            )
        wrong = np.flatnonzero((rows != sum(p.sums for p in pushers)).any(axis=1))
        assert not len(wrong), f"{len(wrong)} rows are not the sum of their pushes: {wrong[:10]}"
        assert store.stats()["tables"]["sums"]["step"] == sum(p.pushes for p in pushers)
