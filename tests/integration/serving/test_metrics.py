"""What an inference server shows to Prometheus, and that the monitoring page names all of it."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from embery.observability.metrics import MetricsEndpoint

Serve = Callable[..., Any]
LOCAL = urllib.request.build_opener(urllib.request.ProxyHandler({}))
ROOT = Path(__file__).parents[3]


def fetch(server: Any) -> dict[str, float]:
    with (
        closing(MetricsEndpoint("127.0.0.1", 0, server.samples)) as endpoint,
        LOCAL.open(f"http://127.0.0.1:{endpoint.port}/metrics", timeout=10) as answer,
    ):
        lines = answer.read().decode().splitlines()
    return {
        name: float(value)
        for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))
    }


def ask(server: Any, count: int, length: int = 0) -> None:
    inputs = [
        {"name": "x", "datatype": "FP32", "shape": [count], "data": [1] * count},
        {"name": "user", "datatype": "INT64", "shape": [count], "data": [2] * count},
        {
            "name": "clicked", "datatype": "INT64", "shape": [count, length],
            "data": [3] * count * length,
        },
    ]  # fmt: skip
    body = json.dumps({"inputs": inputs}).encode()
    request = urllib.request.Request(f"{server.url}/v2/models/ctr/infer", body)
    with LOCAL.open(request, timeout=10) as answer:
        assert answer.status == 200


def test_requests_batches_and_versions_are_counted(
    serve: Serve, models: Path, put_version: Callable[..., None]
) -> None:
    server = serve(watch_s=0)
    for _ in range(3):
        ask(server, 5)
    with pytest.raises(urllib.error.HTTPError):
        ask(server, 5, length=4)
    put_version(models, 2, "damaged")
    put_version(models, 3)
    server.versions.refresh()
    shown = fetch(server)
    assert shown['embery_inference_requests_total{code="OK",protocol="http"}'] == 3
    assert shown['embery_inference_requests_total{code="INVALID_ARGUMENT",protocol="http"}'] == 1
    assert shown['embery_inference_seconds_count{protocol="http"}'] == 3
    assert shown['embery_inference_seconds_count{protocol="grpc"}'] == 0
    assert 0 < shown['embery_inference_seconds_sum{protocol="http"}'] < 30
    assert shown['embery_inference_batch_samples_bucket{le="4.0"}'] == 0
    assert shown['embery_inference_batch_samples_bucket{le="8.0"}'] == 3
    assert shown["embery_inference_batch_samples_sum"] == 15
    assert shown["embery_inference_waiting_samples"] == 0
    assert shown["embery_model_version"] == 3
    assert shown["embery_model_version_switches_total"] == 2
    assert shown["embery_model_version_failures_total"] == 0
    put_version(models, 4, "damaged")
    server.versions.refresh()
    shown = fetch(server)
    assert shown["embery_model_version"] == 3
    assert shown["embery_model_version_failures_total"] == 1


def test_the_page_names_what_is_shown(serve: Serve) -> None:
    server = serve()
    ask(server, 1)
    page = (ROOT / "docs" / "operating" / "serving.md").read_text(encoding="utf-8")
    names = {re.sub(r"(_bucket|_sum|_count)?(\{.*)?$", "", name) for name in fetch(server)}
    assert set(re.findall(r"`(embery_[a-z_]+)`", page)) == names
