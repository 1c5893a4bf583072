"""Pauses of all workers: who is waited for, who goes on, and when it is over whatever happens."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

import embery as em
from embery.coordinator import pausing
from embery.coordinator.pausing import Pauses
from embery.coordinator.state import ClusterOptions, Worker
from embery.rpc.pausing import PauseWatch, PushGate

WAIT_S = 30.0


class Workers:
    """Workers of a coordinator without a network, each with its gate."""

    def __init__(self, count: int) -> None:
        self.changed = threading.Condition()
        now_s = time.monotonic()
        self.all = {n: Worker(n, f"w{n}", n, count, "live", now_s) for n in range(count)}
        self.pauses = Pauses(self.changed, lambda: self.all, ClusterOptions())
        self.gates = {n: PushGate() for n in range(count)}
        self.watches = [
            PauseWatch(lambda kept, wait_s, n=n: self.pauses.wait(f"w{n}", kept, wait_s), gate)
            for n, gate in self.gates.items()
        ]

    def start(self) -> None:
        for watch in self.watches:
            watch.start()

    def set_state(self, number: int, state: str) -> None:
        with self.changed:
            self.all[number] = replace(self.all[number], state=state)
            self.changed.notify_all()

    def stop(self) -> None:
        for number in self.all:
            self.set_state(number, "left")
        for watch in self.watches:
            watch.stop()


def test_nobody_pushes_while_a_pause_is_in_force() -> None:
    workers = Workers(3)
    workers.start()
    under_way, stopping, pushes = [0], threading.Event(), [0]
    lock = threading.Lock()

    def push(gate: PushGate) -> None:
        while not stopping.is_set():
            with gate.push():
                with lock:
                    under_way[0] += 1
                    pushes[0] += 1
                with lock:
                    under_way[0] -= 1

    with ThreadPoolExecutor(3) as pool:
        for gate in workers.gates.values():
            pool.submit(push, gate)
        try:
            for _ in range(20):
                pause = workers.pauses.begin(WAIT_S)
                with lock:
                    before, busy = pushes[0], under_way[0]
                assert busy == 0
                with lock:
                    assert pushes[0] == before
                assert workers.pauses.end(pause)
        finally:
            stopping.set()
    workers.stop()


def test_a_worker_that_is_lost_is_not_waited_for_and_one_that_pushes_is() -> None:
    workers = Workers(2)
    workers.start()
    with ThreadPoolExecutor(1) as pool:
        with workers.gates[1].push():
            begun = pool.submit(workers.pauses.begin, WAIT_S)
            assert not begun.done()
            workers.set_state(1, "lost")
            assert workers.pauses.end(begun.result(WAIT_S))
        workers.set_state(1, "live")
        assert workers.pauses.end(workers.pauses.begin(WAIT_S))
    workers.stop()


def test_a_push_that_does_not_end_gives_the_pause_up_and_all_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pausing, "PAUSE_SECONDS_MAX", 0.2)
    workers = Workers(2)
    workers.start()
    with workers.gates[1].push():
        with pytest.raises(em.DeadlineExceeded, match=r"still pushing: worker 1 \(client 1\)"):
            workers.pauses.begin(WAIT_S)
        with workers.gates[0].push():
            pass
    workers.stop()


def test_a_pause_that_was_not_ended_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers(1)
    workers.start()
    first = workers.pauses.begin(0.1)
    with workers.gates[0].push():
        assert not workers.pauses.end(first)
    second = workers.pauses.begin(WAIT_S)
    assert second != first
    assert not workers.pauses.end(first)
    assert workers.pauses.end(second)
    workers.stop()


def test_who_comes_during_a_pause_waits_for_its_end() -> None:
    workers = Workers(1)
    workers.start()
    pause = workers.pauses.begin(WAIT_S)

    def come() -> bool:
        with workers.changed:
            workers.pauses.wait_over()
            return True

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(come)
        assert not coming.done()
        workers.pauses.end(pause)
        assert coming.result(WAIT_S)
    workers.stop()


def test_a_worker_that_is_not_known_is_told_so() -> None:
    with pytest.raises(em.Unavailable, match="not a member"):
        Workers(0).pauses.wait("nobody", 0, 0.0)
