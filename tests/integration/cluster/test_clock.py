"""The bound of staleness between workers, as the coordinator keeps it."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from embery.place import Place
from embery.rpc.client import CoordinatorClient
from embery.rpc.membership import Membership
from embery.worker.clock import BatchClock

BOUND = 2


@pytest.fixture
def make_clock() -> Iterator[Callable[[str, int], BatchClock]]:
    """Return what makes the clock of the worker of a rank."""
    with ExitStack() as members:

        def make(url: str, rank: int) -> BatchClock:
            client = CoordinatorClient(url)
            members.callback(client.close)
            member = Membership(client, Place(rank, 2))
            member.start()
            members.callback(member.close)
            return BatchClock(member, group="run", bound=BOUND)

        yield make


def wait_told(url: str, clock: int) -> None:
    """Ask until the coordinator knows a clock; heartbeats, which tell it, come on their own."""
    client = CoordinatorClient(url)
    deadline = time.monotonic() + 20
    while clock not in [worker.progress.clock for worker in client.status().workers]:
        assert time.monotonic() < deadline
    client.close()


def take(clock: BatchClock, batches: int) -> None:
    for _ in range(batches):
        clock.begin(threading.Event())
        clock.commit()


class Beginning:
    """A batch that is begun in a thread of its own."""

    def __init__(self, clock: BatchClock) -> None:
        self.closed = threading.Event()
        self.thread = threading.Thread(target=clock.begin, args=(self.closed,))
        self.thread.start()

    def waits(self, seconds: float = 1.5) -> bool:
        """Return whether it still waits after so long, which is many answers of the coordinator."""
        self.thread.join(seconds)
        return self.thread.is_alive()

    def began(self) -> bool:
        self.thread.join(20)
        return not self.thread.is_alive()


def test_a_worker_waits_for_the_slowest_and_goes_on_when_that_does(
    start_coordinator: Any, make_clock: Callable[[str, int], BatchClock]
) -> None:
    _, url = start_coordinator()
    fast, slow = make_clock(url, 0), make_clock(url, 1)
    take(slow, 1)
    wait_told(url, 1)
    take(fast, 3)  # Joins at 1, and does batches 1, 2 and 3: the last has 2 before it.
    next_one = Beginning(fast)
    assert next_one.waits()
    assert fast.staleness_seen == BOUND
    take(slow, 1)
    assert next_one.began()
    assert fast.staleness_seen == BOUND


def test_nobody_waits_for_a_worker_that_takes_no_batches(
    start_coordinator: Any, make_clock: Callable[[str, int], BatchClock]
) -> None:
    _, url = start_coordinator()
    fast, slow = make_clock(url, 0), make_clock(url, 1)
    take(slow, 1)
    wait_told(url, 1)
    take(fast, 3)
    next_one = Beginning(fast)
    assert next_one.waits(0.5)
    slow.leave()
    assert next_one.began()
    fast.commit()
    take(fast, 10)
    # It comes back where the slowest is, and does not hold the others up.
    slow.begin(threading.Event())
    assert slow.staleness == 0
    slow.commit()
    take(fast, 2)


def test_nobody_waits_for_a_worker_that_is_lost(
    start_coordinator: Any, make_clock: Callable[[str, int], BatchClock]
) -> None:
    _, url = start_coordinator("--lease", "1")
    client = CoordinatorClient(url)
    client.register_worker(incarnation="frozen", rank=1, world_size=2)
    fast = make_clock(url, 0)
    # Registered, and never heard of: it may be the slowest until its lease has ended.
    first = Beginning(fast)
    assert first.began()
    fast.commit()
    take(fast, 5)
    client.close()


def test_a_wait_ends_when_it_is_cancelled(
    start_coordinator: Any, make_clock: Callable[[str, int], BatchClock]
) -> None:
    _, url = start_coordinator()
    fast, slow = make_clock(url, 0), make_clock(url, 1)
    take(slow, 1)
    wait_told(url, 1)
    take(fast, 3)
    next_one = Beginning(fast)
    next_one.closed.set()
    assert next_one.began()


def test_the_bound_holds_over_a_restart_of_the_coordinator(
    start_coordinator: Any, make_clock: Callable[[str, int], BatchClock], tmp_path: Path
) -> None:
    state = ("--state", str(tmp_path / "cluster.sqlite"))
    coordinator, url = start_coordinator(*state)
    fast, slow = make_clock(url, 0), make_clock(url, 1)
    take(slow, 1)
    wait_told(url, 1)
    take(fast, 3)
    coordinator.finish(signal.SIGKILL)
    next_one = Beginning(fast)
    start_coordinator(*state, "--port", url.rpartition(":")[2])
    assert next_one.waits(3.0)
    take(slow, 1)
    assert next_one.began()
