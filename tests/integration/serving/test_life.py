"""Versions that come while requests are served, and how a server ends."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from embery.serving.batching import BatchingOptions
from embery.serving.role import InferenceServer, ServeOptions

Serve = Callable[..., Any]
PutVersion = Callable[..., None]
LOCAL = urllib.request.build_opener(urllib.request.ProxyHandler({}))
DEADLINE_S = 30
BODY = json.dumps(
    {
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2]},
            {"name": "user", "datatype": "INT64", "shape": [2], "data": [0, 0]},
            {"name": "clicked", "datatype": "INT64", "shape": [2, 0], "data": []},
        ]
    }
).encode()


def score(url: str) -> tuple[str, list[float]]:
    """Return the version that scored, and the scores."""
    request = urllib.request.Request(f"{url}/v2/models/ctr/infer", BODY)
    with LOCAL.open(request, timeout=DEADLINE_S) as answer:
        found = json.load(answer)
    return found["model_version"], found["outputs"][0]["data"]


def test_every_answer_is_of_one_version_while_versions_are_switched(
    serve: Serve, models: Path, put_version: PutVersion
) -> None:
    server = serve(watch_s=0.01)
    ended = threading.Event()
    seen: list[tuple[str, list[float]]] = []

    def ask() -> None:
        while not ended.is_set():
            seen.append(score(server.url))

    with ThreadPoolExecutor(4) as threads:
        asking = [threads.submit(ask) for _ in range(4)]
        try:
            for version in range(2, 12):
                text = "damaged" if version == 6 else None
                put_version(models, version, text)
                if text is None:
                    assert server.versions.wait_for(version, DEADLINE_S)
        finally:
            ended.set()
        for one in asking:
            one.result()
    assert all(scores == [1000.0 * int(v) + 1, 1000.0 * int(v) + 2] for v, scores in seen)
    versions = {int(v) for v, _ in seen}
    assert len(versions) > 3
    assert 6 not in versions
    assert score(server.url)[0] == "11"


def test_what_is_under_way_ends_and_new_requests_are_refused(models: Path, load: Any) -> None:
    options = ServeOptions(str(models), batching=BatchingOptions(delay_ms=500.0))
    server = InferenceServer(options, load).__enter__()
    with ThreadPoolExecutor(2) as threads:
        under_way = threads.submit(score, server.url)
        while not server.service.batcher.samples and not under_way.done():
            threading.Event().wait(0.001)
        leaving = threads.submit(server.__exit__, None, None, None)
        while server.service.is_ready and not leaving.done():
            threading.Event().wait(0.001)
        with pytest.raises(urllib.error.HTTPError) as caught:
            score(server.url)
        assert caught.value.code == 503
        assert b"about to end" in caught.value.read()
        assert under_way.result(DEADLINE_S) == ("1", [1001.0, 1002.0])
        leaving.result(DEADLINE_S)
    with pytest.raises(urllib.error.URLError, match="refused"):
        score(server.url)
