"""Metrics of a role, for Prometheus to fetch over HTTP.

Values are read when they are asked for; nothing is counted twice for their sake.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Literal

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from embery.errors import Unavailable


@dataclass(frozen=True, slots=True)
class Sample:
    """One value.

    Args:
        kind: "counter" only grows while the process lives; "gauge" moves both ways.
        name: without the prefix "embery_", and without the suffix of a counter, "_total".
        text: what it is, the same for all samples of a name.
        labels: names and values, the same names for all samples of a name.
    """

    kind: Literal["counter", "gauge"]
    name: str
    text: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Distribution:
    """Many values of one thing, counted by their size; a histogram to Prometheus.

    Args:
        name, text, labels: as of `Sample`.
        buckets: upper bound and values of each, the bounds rising to infinity.
        total: the values added up.
    """

    name: str
    text: str
    buckets: Sequence[tuple[float, int]]
    total: float
    labels: Mapping[str, str] = field(default_factory=dict)


Shown = Sample | Distribution


class MetricsEndpoint:
    """Serves http://HOST:PORT/metrics from its making until `close`.

    Args:
        host, port: where to listen; port 0 picks a free one.
        collect: returns all samples; called from other threads.

    Raises:
        Unavailable: the address cannot be bound.
    """

    def __init__(self, host: str, port: int, collect: Callable[[], Iterable[Shown]]) -> None:
        registry = CollectorRegistry()
        registry.register(_Samples(collect))
        try:
            self._server, self._thread = start_http_server(port, addr=host, registry=registry)
        except OSError as error:
            raise Unavailable(
                f"cannot serve metrics at {host}:{port}: {error.strerror}; --metrics-port 0 picks "
                "a free port"
            ) from None
        self.port = int(self._server.server_address[1])

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Samples(Collector):
    def __init__(self, collect: Callable[[], Iterable[Shown]]) -> None:
        self._collect = collect

    def describe(self) -> Iterable[Metric]:
        """Return nothing: samples are known when they are collected, not before."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the samples, those of a name together."""
        families: dict[str, Any] = {}
        for shown in self._collect():
            if shown.name not in families:
                families[shown.name] = _family_of(shown)(
                    f"embery_{shown.name}", shown.text, labels=list(shown.labels)
                )
            values = list(shown.labels.values())
            if isinstance(shown, Distribution):
                families[shown.name].add_metric(values, _cumulative(shown.buckets), shown.total)
            else:
                families[shown.name].add_metric(values, shown.value)
        yield from families.values()


def _family_of(shown: Shown) -> Callable[..., Metric]:
    if isinstance(shown, Distribution):
        return HistogramMetricFamily
    return CounterMetricFamily if shown.kind == "counter" else GaugeMetricFamily


def _cumulative(buckets: Sequence[tuple[float, int]]) -> list[tuple[str, int]]:
    """Return for each bound, as Prometheus writes it, how many values are at most that."""
    counts = accumulate(count for _, count in buckets)
    bounds = ["+Inf" if math.isinf(bound) else str(bound) for bound, _ in buckets]
    return list(zip(bounds, counts, strict=True))
