"""Ten minutes of clients that come, pull, push and go: a server's memory stays flat."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embery as em

SECONDS = float(os.environ.get("EMBERY_SOAK_SECONDS", "600"))
TRANSPORTS = ("shm", "tcp", "grpc")
ROWS, DIM, CALLS = 50_000, 16, 100
GROWTH_MAX = 0.05
TABLE = em.Table("soak", dim=DIM, optimizer=em.optim.Adam(lr=0.01))


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Visitor(threading.Thread):
    """Connects, makes some calls of growing and shrinking size, and leaves; again and again."""

    def __init__(self, url: str, transport: str) -> None:
        super().__init__()
        self.url, self.transport = url, transport
        self.stopping = threading.Event()
        self.visits = 0
        self.error: BaseException | None = None

    def run(self) -> None:
        random = np.random.default_rng(TRANSPORTS.index(self.transport))
        try:
            while not self.stopping.is_set():
                with em.connect(self.url, transport=self.transport) as store:
                    store.create_table(TABLE)
                    for _ in range(CALLS):
                        keys = random.integers(0, ROWS, random.integers(1, 20_000)).astype("u8")
                        store.push("soak", keys, store.pull("soak", keys))
                self.visits += 1
        except BaseException as error:
            self.error = error


@pytest.mark.long
@pytest.mark.timeout(2 * SECONDS + 300)
def test_memory_of_a_server_stays_flat(start: Any, start_coordinator: Any) -> None:
    _, url = start_coordinator()
    server = start("ps", "--coordinator", url, "--drain", "0")
    server.line()
    visitors = [Visitor(url, transport) for transport in TRANSPORTS]
    begun = time.monotonic()
    for visitor in visitors:
        visitor.start()
    samples = []
    try:
        while time.monotonic() < begun + SECONDS and all(v.is_alive() for v in visitors):
            visitors[0].join(SECONDS / 100)
            samples.append(resident_bytes(server.process.pid))
    finally:
        for visitor in visitors:
            visitor.stopping.set()
            visitor.join()
    assert [visitor.error for visitor in visitors] == [None] * len(visitors)
    assert min(visitor.visits for visitor in visitors) > 1
    settled, last = np.median(samples[20:40]), np.median(samples[-20:])
    assert last < settled * (1 + GROWTH_MAX), samples
