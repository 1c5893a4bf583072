"""What the coordinator shows to Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import get_args

from embery.coordinator.cluster import Cluster
from embery.coordinator.state import WorkerState
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
