"""Workers as the coordinator knows them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

import embery as em

DEADLINE_S = 20.0


def test_status_shows_the_rank_of_a_worker_and_how_far_it_is(
    run_cluster: Any, start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBERY_RANK", "2")
    monkeypatch.setenv("EMBERY_WORLD_SIZE", "3")
    with run_cluster(1) as url, em.connect(url) as store:
        assert store.membership is not None
        store.membership.advance(batches=1, samples=100)
        store.membership.advance(batches=1, samples=80, staleness=4)
        deadline = time.monotonic() + DEADLINE_S
        shown: dict[str, Any] = {"batches": 0}
        while not shown["batches"]:
            assert time.monotonic() < deadline
            status = start("status", "--store", url, "--json")
            text, errors = status.process.communicate(timeout=DEADLINE_S)
            assert status.process.returncode == 0, errors
            (shown,) = json.loads(text)["workers"]
        assert shown.pop("samples_per_s") > 0
        assert shown == {
            "client": 1, "rank": 2, "world_size": 3, "state": "live",
            "batches": 2, "samples": 180, "staleness": 4,
        }  # fmt: skip


def test_a_process_that_nobody_launched_has_no_rank_but_the_first(
    run_cluster: Any, start: Callable[..., Any]
) -> None:
    with run_cluster(1) as url, em.connect(url):
        text, _ = start("status", "--store", url).process.communicate(timeout=DEADLINE_S)
    header, worker = (line.split() for line in text.split("\n\n")[2].splitlines())
    assert header == [
        "client", "state", "rank", "world_size", "batches", "samples_per_s", "staleness",
    ]  # fmt: skip
    assert worker[2:5] == ["0", "1", "0"]


def test_the_embedded_store_is_no_member_of_anything() -> None:
    with em.connect("embedded:") as store:
        assert store.membership is None
