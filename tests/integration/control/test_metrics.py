"""What Prometheus is shown."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable
from typing import Any

import numpy as np

import embery as em
from embery.rpc.client import CoordinatorClient

Start = Callable[..., Any]
LOCAL = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def fetch(role: Any) -> dict[str, float]:
    """Return the samples of a role that has printed where its metrics are."""
    return fetch_at(role.line())


def fetch_at(line: str) -> dict[str, float]:
    assert line.startswith("metrics at http://127.0.0.1:"), line
    with LOCAL.open(line.removeprefix("metrics at "), timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return {
        name: float(value)
        for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))
    }


def test_roles_show_their_members_tables_and_traffic(
    start: Start, start_coordinator: Start
) -> None:
    _, url = start_coordinator()
    server = start("ps", "--coordinator", url, "--metrics-port", "0")
    CoordinatorClient(url).routing()
    with em.connect(url) as store:
        store.create_table(em.Table("item", dim=4))
        store.push("item", np.arange(10, dtype=np.uint64), np.ones((10, 4), np.float32))
        shown = fetch(server)
    assert shown['embery_table_rows{table="item"}'] == 10
    assert shown['embery_table_updates_total{table="item"}'] == 10
    assert shown["embery_data_rows_pushed_total"] == 10
    assert shown["embery_routing_version"] == 1
    assert shown['embery_data_connections{transport="shm"}'] >= 1
    assert shown['embery_data_bytes_in_total{transport="shm"}'] > 10 * (8 + 4 * 4)
    assert shown['embery_data_accepted_total{transport="tcp"}'] == 0
    assert shown['embery_request_seconds_count{kind="push"}'] == 1
    assert 0 < shown['embery_request_seconds_sum{kind="push"}'] < 10
    assert shown['embery_request_seconds_count{kind="pull"}'] == 0


def test_the_buckets_of_request_times_add_up(start: Start, start_coordinator: Start) -> None:
    _, url = start_coordinator()
    server = start("ps", "--coordinator", url, "--metrics-port", "0")
    CoordinatorClient(url).routing()
    with em.connect(url, transport="grpc") as store:
        store.create_table(em.Table("item", dim=4))
        for _ in range(5):
            store.pull("item", np.arange(10, dtype=np.uint64))
        shown = fetch(server)
    buckets = [
        (float(name.partition('le="')[2].rstrip('"}')), count)
        for name, count in shown.items()
        if name.startswith("embery_request_seconds_bucket") and 'kind="pull"' in name
    ]
    bounds, counts = [bound for bound, _ in buckets], [count for _, count in buckets]
    assert bounds[:2] == [8e-6, 16e-6]
    assert bounds[-1] == np.inf
    assert bounds == sorted(bounds)
    assert counts == sorted(counts)
    assert counts[-1] == shown['embery_request_seconds_count{kind="pull"}'] == 5
    assert shown['embery_data_bytes_out_total{transport="grpc"}'] > 5 * 10 * 4 * 4


def test_the_coordinator_counts_members_by_state(start: Start) -> None:
    coordinator = start("coordinator", "--metrics-port", "0", "--expect-ps", "3")
    shown = fetch(coordinator)
    assert shown["embery_servers_expected"] == 3
    assert shown["embery_routing_version"] == 0
    for state in ("joining", "live", "lost", "left"):
        assert shown[f'embery_servers{{state="{state}"}}'] == 0


def test_the_coordinator_tells_when_it_heard_of_a_member(start: Start) -> None:
    coordinator = start("coordinator", "--metrics-port", "0")
    at = coordinator.line()
    url = coordinator.line().split()[-1]
    server = start("ps", "--coordinator", url)
    CoordinatorClient(url).routing()
    shown = fetch_at(at)
    assert shown['embery_servers{state="live"}'] == 1
    assert 0 <= shown['embery_heartbeat_age_seconds{member="0",role="server"}'] < 2
    server.stop()


def test_a_metrics_port_in_use_is_one_message(start: Start, start_coordinator: Start) -> None:
    _, url = start_coordinator()
    code, errors = start("coordinator", "--metrics-port", url.rpartition(":")[2]).finish()
    assert code == 1
    assert errors.count("\n") == 1
    assert "cannot serve metrics at 127.0.0.1:" in errors
