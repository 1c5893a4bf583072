"""What an inference server shows to Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from embery.observability.metrics import Distribution, Sample, Shown
from embery.serving.service import InferenceService
from embery.serving.versions import Versions


def samples(service: InferenceService, versions: Versions) -> Iterator[Shown]:
    """Yield what was served, what waits, and which version is current."""
    traffic = service.traffic
    for protocol, times in traffic.times.items():
        text = "Time from a whole request to its scores."
        label = {"protocol": protocol}
        yield Distribution("inference_seconds", text, times.buckets(), times.total, label)
    for (protocol, code), count in sorted(traffic.answers.items()):
        text = "Requests for scores, by what became of them."
        labels = {"protocol": protocol, "code": code}
        yield Sample("counter", "inference_requests", text, count, labels)
    batches = traffic.batches
    text = "Samples scored in one call."
    yield Distribution("inference_batch_samples", text, batches.buckets(), batches.total)
    waiting = service.batcher.samples
    yield Sample("gauge", "inference_waiting_samples", "Samples that wait to be scored.", waiting)
    version = versions.current().version
    yield Sample("gauge", "model_version", "The version that is served.", version)
    yield Sample(
        "gauge", "model_version_since_seconds", "When it began, Unix time.", versions.since_s
    )
    yield Sample(
        "counter", "model_version_switches", "Versions that began to be served.", versions.switches
    )
    yield Sample(
        "counter", "model_version_failures", "Versions that were not opened.", versions.failures
    )
