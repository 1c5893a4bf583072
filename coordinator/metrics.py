"""What the coordinator shows to Prometheus."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import get_args

from embery.coordinator.cluster import Cluster
from embery.coordinator.state import ClusterState, WorkerState
from embery.observability.metrics import Sample
from embery.rpc.records import ServerState


def samples(cluster: Cluster) -> Iterator[Sample]:
    """Yield what there is to know of the cluster; a state that nobody is in counts 0."""
    state = cluster.state
    version = state.routing.version
    yield Sample(
        "gauge", "routing_version", "Routing in force; 0 before slots are placed.", version
    )
    yield Sample("gauge", "tables", "Tables of the cluster.", len(state.tables))
    expected = cluster.options.expect_servers
    yield Sample("gauge", "servers_expected", "Servers that slots are placed on.", expected)
    servers: Counter[str] = Counter(server.state for server in state.servers.values())
    for name in get_args(ServerState):
        yield Sample("gauge", "servers", "Servers by state.", servers[name], {"state": name})
    workers: Counter[str] = Counter(worker.state for worker in state.workers.values())
    for name in get_args(WorkerState):
        yield Sample("gauge", "workers", "Workers by state.", workers[name], {"state": name})
    yield from _heartbeat_ages(state, time.monotonic())


def _heartbeat_ages(state: ClusterState, now_s: float) -> Iterator[Sample]:
    """Yield how long ago each member was heard that is there, or should be."""
    text = "Seconds since the last heartbeat of a member that is live or lost."
    for role, members in (("server", state.servers), ("worker", state.workers)):
        for number, member in members.items():
            if member.state in ("live", "lost"):
                label = {"role": role, "member": str(number)}
                age_s = now_s - member.heard_s
                yield Sample("gauge", "heartbeat_age_seconds", text, age_s, label)
