"""How long rows are away when one of the servers that have them twice is killed.

    python -m benchmarks.failover --kills 20

Servers are killed one after the other, each once all slots have two copies again, while a worker
pushes to all of them. A figure is the time from SIGKILL until a push to slots that the victim owned
is acknowledged, by who has taken them over.
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np

import embery as em
from benchmarks.measure import emit, log
from benchmarks.roles import TIMEOUT_S, start
from embery.routing import slots_of
from embery.rpc.client import CoordinatorClient
from embery.rpc.records import NO_SERVER, Routing

SERVERS, ROWS, DIM, BATCH = 3, 100_000, 16, 1000
TABLE = em.Table("failover", dim=DIM, optimizer=em.optim.RowwiseAdagrad(lr=0.01))
KEYS = np.arange(ROWS, dtype=np.uint64)
GRADS = np.full((BATCH, DIM), 1e-3, np.float32)


class Load(threading.Thread):
    """Pushes drawn keys until it is stopped."""

    def __init__(self, store: em.Store) -> None:
        super().__init__(daemon=True)
        self.store, self.stopping = store, threading.Event()

    def run(self) -> None:
        random = np.random.default_rng(0)
        while not self.stopping.is_set():
            self.store.push("failover", random.choice(KEYS, BATCH), GRADS)


def whole(coordinator: CoordinatorClient, lost: set[int]) -> Routing:
    """Wait until all slots have two copies on servers that are there; return the routing."""
    version, deadline = 0, time.monotonic() + TIMEOUT_S
    while True:
        routing = coordinator.routing(version, deadline - time.monotonic())
        if not (routing.backups == NO_SERVER).any() and not routing.holders() & lost:
            return routing
        version = routing.version


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    kills: int = parser.parse_args().kills
    with ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        _, line = start(
            stack, logs / "coordinator", "coordinator",
            "--expect-ps", str(SERVERS), "--replicas", "2",
        )  # fmt: skip
        url = line.split()[-1]
        pids: dict[int, int] = {}

        def add() -> None:
            pid, ready = start(stack, logs / f"ps-{len(pids)}", "ps", "--coordinator", url,
                               "--drain", "0")  # fmt: skip
            pids[int(ready.split()[1])] = pid

        for _ in range(SERVERS):
            add()
        coordinator = CoordinatorClient(url)
        stack.callback(coordinator.close)
        store = stack.enter_context(em.connect(url, timeout_s=TIMEOUT_S))
        store.create_table(TABLE)
        load = Load(store)
        load.start()
        slots = slots_of("failover", KEYS)
        lost: set[int] = set()
        taken_s = []
        for _ in range(kills):
            routing = whole(coordinator, lost)
            victim = int(routing.owners[slots[0]])
            keys = KEYS[routing.owners[slots] == victim][:BATCH]
            store.push("failover", keys, GRADS[: len(keys)])
            killed = time.perf_counter()
            os.kill(pids[victim], signal.SIGKILL)
            os.waitid(os.P_PID, pids[victim], os.WEXITED | os.WNOWAIT)
            store.push("failover", keys, GRADS[: len(keys)])
            taken_s.append(time.perf_counter() - killed)
            log(f"server {victim} was killed: {taken_s[-1]:.2f} s")
            lost.add(victim)
            add()
        load.stopping.set()
        load.join(TIMEOUT_S)
    for share in (50, 90, 100):
        value = float(np.percentile(taken_s, share))
        emit("failover", f"kill_to_push_p{share}_s", value, "s", f"{kills} kills")


if __name__ == "__main__":
    main()
