"""What the coordinator shows to Prometheus."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import get_args

from embery.coordinator.cluster import Cluster
from embery.coordinator.state import ClusterState, Reading, WorkerState
from embery.observability.metrics import Sample
from embery.rpc.records import NO_SERVER, ServerState


def samples(cluster: Cluster) -> Iterator[Sample]:
    """Yield what there is to know of the cluster."""
    expected, replicas = cluster.options.expect_servers, cluster.options.replicas
    yield Sample("gauge", "servers_expected", "What --expect-ps said.", expected)
    backups = cluster.state.routing.backups
    lacking = int((backups == NO_SERVER).sum()) if replicas > 1 else 0
    yield Sample("gauge", "slots_lacking_copy", "Of those that shall have one.", lacking)
    yield from state_samples(cluster.state, time.monotonic())
    yield from reading_samples(cluster.readings.all.values())


def state_samples(state: ClusterState, now_s: float) -> Iterator[Sample]:
    """Yield what the state says at `now_s`; a member's state that nobody is in counts 0."""
    version = state.routing.version
    yield Sample(
        "gauge", "routing_version", "Routing in force; 0 before slots are placed.", version
    )
    yield Sample("gauge", "tables", "Tables of the cluster.", len(state.tables))
    servers: Counter[str] = Counter(server.state for server in state.servers.values())
    for name in get_args(ServerState):
        yield Sample("gauge", "servers", "Servers by state.", servers[name], {"state": name})
    draining = sum(s.draining for s in state.servers.values() if s.state != "left")
    yield Sample("gauge", "servers_draining", "Servers whose slots go to others.", draining)
    workers: Counter[str] = Counter(worker.state for worker in state.workers.values())
    for name in get_args(WorkerState):
        yield Sample("gauge", "workers", "Workers by state.", workers[name], {"state": name})
    yield from _slots(state)
    yield from _heartbeat_ages(state, now_s)
    for worker in state.workers.values():
        if worker.state == "live":
            label = {"member": str(worker.client)}
            rate, behind = worker.samples_per_s, worker.progress.staleness
            yield Sample("gauge", "worker_samples_per_second", "As it reports.", rate, label)
            yield Sample("gauge", "worker_staleness", "Batches not applied yet.", behind, label)


def reading_samples(readings: Iterable[Reading]) -> Iterator[Sample]:
    """Yield the pieces of the data sets that are being read by leases."""
    pieces = Counter({"finished": 0, "held": 0, "waiting": 0})
    for reading in readings:
        if reading.state == "open":
            held = sum(piece.holder is not None for piece in reading.pieces.values())
            done = reading.finished_count
            pieces.update(finished=done, held=held, waiting=reading.count - done - held)
    for name, count in pieces.items():
        text = "Pieces of the data that workers read by leases now."
        yield Sample("gauge", "reading_pieces", text, count, {"state": name})


def _slots(state: ClusterState) -> Iterator[Sample]:
    moving = 0 if state.move is None else state.move.end - state.move.begin
    yield Sample("gauge", "slots_moving", "Slots on their way to another server.", moving)
    counts = Counter(state.routing.owners.tolist())
    copies = Counter(state.routing.backups.tolist())
    for number in state.routing.servers:
        label = {"member": str(number)}
        yield Sample("gauge", "slots", "Slots that a server owns.", counts[number], label)
        text = "Slots of others of which it has copies."
        yield Sample("gauge", "slots_copied", text, copies[number], label)


def _heartbeat_ages(state: ClusterState, now_s: float) -> Iterator[Sample]:
    """Yield how long ago each member was heard that is there, or should be."""
    text = "Seconds since the last heartbeat of a member that is live or lost."
    for role, members in (("server", state.servers), ("worker", state.workers)):
        for number, member in members.items():
            if member.state in ("live", "lost"):
                label = {"role": role, "member": str(number)}
                age_s = now_s - member.heard_s
                yield Sample("gauge", "heartbeat_age_seconds", text, age_s, label)
