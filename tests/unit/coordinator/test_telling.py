"""Routings that are decided while servers are still told of an older one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from embery.coordinator.cluster import Cluster
from embery.coordinator.database import IN_MEMORY, Database
from embery.coordinator.state import ClusterOptions
from embery.rpc.records import Progress, Routing

WAIT_S = 20.0


class Server:
    """What the coordinator calls; it hears of a routing only while it listens."""

    def __init__(self) -> None:
        self.listens = threading.Event()
        self.listens.set()

    def set_routing(self, routing: Routing, *, timeout_s: float) -> None:
        assert self.listens.wait(WAIT_S)

    def close(self) -> None:
        self.listens.set()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline, tick = time.monotonic() + WAIT_S, threading.Event()
    while not condition():
        assert time.monotonic() < deadline
        tick.wait(0.01)


def test_a_routing_decided_while_an_older_one_is_told_is_told_too() -> None:
    server: Any = Server()
    options = ClusterOptions(expect_servers=2, replicas=2)
    cluster = Cluster(Database(IN_MEMORY), options, lambda address: server)
    for number in range(3):
        cluster.register_server(f"s{number}", f"127.0.0.1:{number + 1}", "host")
        cluster.heartbeat(f"s{number}", Progress())
    now_s = time.monotonic()
    cluster._tick(now_s)
    assert cluster.routing().version == 1
    move = cluster.next_move()
    assert move is not None
    server.listens.clear()
    with ThreadPoolExecutor(2) as threads:
        settling = threads.submit(cluster.settle, move, moved=False)
        wait_for(lambda: cluster.state.move is None)
        losing = threads.submit(cluster._tick, now_s + 2 * options.lease_s)
        wait_for(lambda: "are replaced" in cluster.reason)
        server.listens.set()
        settling.result(WAIT_S)
        losing.result(WAIT_S)
    assert cluster.routing().version == 3
    cluster.close()
