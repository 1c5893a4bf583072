"""What a server shows to Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from embery.observability.metrics import Sample
from embery.ps.tables import ServedTables

# Counter of the store -> what it is; all but these stay within `embery status`.
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
_DATA_GAUGES = {"connections": "Open connections of the data plane."}


def samples(tables: ServedTables) -> Iterator[Sample]:
    """Yield what the tables and the data plane count."""
    yield Sample("gauge", "routing_version", "Routing in force here.", tables.routing_version)
    for name, value in tables.stats("").items():
        if name in _DATA_GAUGES:
            yield Sample("gauge", f"data_{name}", _DATA_GAUGES[name], value)
        else:
            words = name.replace("_", " ")
            yield Sample("counter", f"data_{name}", f"Data plane: {words}.", value)
    for table in tables.names:
        counters = tables.stats(table)
        label = {"table": table}
        for name, text in _TABLE_GAUGES.items():
            yield Sample("gauge", f"table_{name}", text, counters[name], label)
        for name, text in _TABLE_COUNTERS.items():
            yield Sample("counter", f"table_{name}", text, counters[name], label)
