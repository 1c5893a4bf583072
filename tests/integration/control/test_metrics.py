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
    line = role.line()
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
    assert shown["embery_data_connections"] >= 1
    assert shown["embery_routing_version"] == 1


def test_the_coordinator_counts_members_by_state(start: Start) -> None:
    coordinator = start("coordinator", "--metrics-port", "0", "--expect-ps", "3")
    shown = fetch(coordinator)
    assert shown["embery_servers_expected"] == 3
    assert shown["embery_routing_version"] == 0
    for state in ("joining", "live", "lost", "left"):
        assert shown[f'embery_servers{{state="{state}"}}'] == 0


def test_a_metrics_port_in_use_is_one_message(start: Start, start_coordinator: Start) -> None:
    _, url = start_coordinator()
    code, errors = start("coordinator", "--metrics-port", url.rpartition(":")[2]).finish()
    assert code == 1
    assert errors.count("\n") == 1
    assert "cannot serve metrics at 127.0.0.1:" in errors
