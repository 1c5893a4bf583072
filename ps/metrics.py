"""What a server shows to Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from embery.observability.metrics import Distribution, Sample, Shown
from embery.ps.tables import ServedTables

# Counters of the store and of the server -> what they are.
_TABLE_GAUGES = {
    "rows": "Rows of the table on this server.",
    "bytes": "Memory of its records and index.",
    "candidates": "Keys that admission watches and has not let in.",
}
_TABLE_COUNTERS = {
    "updates": "Optimizer steps of rows.",
    "admitted": "Rows that were inserted.",
    "rejected": "Gradients of keys that admission held back.",
    "evicted": "Rows that the eviction policy removed.",
    "deleted": "Rows that were deleted, evicted ones among them.",
    "nonfinite": "Gradients that were refused for not being finite.",
}
_SERVED_COUNTERS = {
    "requests": "Requests that came, whatever became of them.",
    "rows_pulled": "Rows that were handed out.",
    "rows_pushed": "Gradients of rows that were applied.",
    "moved": "Keys refused because their slot is another server's.",
    "failed": "Requests answered with an error.",
}
_TRAFFIC_COUNTERS = {
    "accepted": "Connections that were ever opened.",
    "bytes_in": "Bytes of requests.",
    "bytes_out": "Bytes of replies.",
    "malformed": "Connections closed for a frame that made no sense.",
    "unauthenticated": "Connections closed for a wrong secret.",
}
_COPY_GAUGES = {
    "slots": "Slots that another server follows.",
    "frames": "What it is yet to be told of them, in frames.",
    "bytes": "Bytes of copies that are being made and wait to be sent.",
}
_TIMES = "Seconds from a whole request to its reply, with what a push waits for other workers."


def samples(tables: ServedTables) -> Iterator[Shown]:
    """Yield what the tables and the data plane count."""
    yield Sample("gauge", "routing_version", "Routing in force here.", tables.routing_version)
    served = tables.native.stats()
    for name, text in _SERVED_COUNTERS.items():
        yield Sample("counter", f"data_{name}", text, served[name])
    for kind, (buckets, total) in tables.native.times().items():
        yield Distribution("request_seconds", _TIMES, buckets, total, {"kind": kind})
    for transport, counters in tables.native.traffic().items():
        label = {"transport": transport}
        yield Sample("gauge", "data_connections", "Open now.", counters["connections"], label)
        for name, text in _TRAFFIC_COUNTERS.items():
            yield Sample("counter", f"data_{name}", text, counters[name], label)
    for target, lag in tables.native.copy_lag().items():
        label = {"member": str(target)}
        for name, text in _COPY_GAUGES.items():
            yield Sample("gauge", f"copy_{name}", text, lag[name], label)
    for table in tables.names:
        counters = tables.stats(table)
        label = {"table": table}
        for name, text in _TABLE_GAUGES.items():
            yield Sample("gauge", f"table_{name}", text, counters[name], label)
        for name, text in _TABLE_COUNTERS.items():
            yield Sample("counter", f"table_{name}", text, counters[name], label)
