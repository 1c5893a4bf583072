"""Metrics of a role, for Prometheus to fetch over HTTP.

Values are read when they are asked for; nothing is counted twice for their sake.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
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


class MetricsEndpoint:
    """Serves http://HOST:PORT/metrics from its making until `close`.

    Args:
        host, port: where to listen; port 0 picks a free one.
        collect: returns all samples; called from other threads.

    Raises:
        Unavailable: the address cannot be bound.
    """

    def __init__(self, host: str, port: int, collect: Callable[[], Iterable[Sample]]) -> None:
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
    def __init__(self, collect: Callable[[], Iterable[Sample]]) -> None:
        self._collect = collect

    def describe(self) -> Iterable[Metric]:
        """Return nothing: samples are known when they are collected, not before."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the samples, those of a name together."""
        families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for sample in self._collect():
            if sample.name not in families:
                kind = CounterMetricFamily if sample.kind == "counter" else GaugeMetricFamily
                families[sample.name] = kind(
                    f"embery_{sample.name}", sample.text, labels=list(sample.labels)
                )
            families[sample.name].add_metric(list(sample.labels.values()), sample.value)
        yield from families.values()
