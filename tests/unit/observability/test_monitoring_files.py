"""The dashboard and the alerts of deploy/monitoring ask only for what the roles show."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embery.coordinator import metrics as coordinator
from embery.coordinator.cluster import Cluster
from embery.coordinator.database import IN_MEMORY, Database
from embery.coordinator.state import ClusterOptions
from embery.observability.metrics import MetricsEndpoint
from embery.ps import metrics as server
from embery.ps.tables import ServedTables
from embery.rpc.records import Progress, Routing, ServerInfo, no_backups
from embery.rpc.server_client import ServerClient
from embery.table import Table

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "deploy" / "monitoring"
RULES = FOLDER / "embery.rules.yml"
DASHBOARD = FOLDER / "embery-dashboard.json"
LOCAL = urllib.request.build_opener(urllib.request.ProxyHandler({}))
SERVER = ServerInfo(0, "127.0.0.1:1", "host", "live")
# Labels that Prometheus itself gives, or that only a bucket has.
THEIRS = {"job", "instance", "le"}


def shown(samples: Callable[[], Iterable[Any]]) -> str:
    """Return what Prometheus would fetch."""
    with (
        closing(MetricsEndpoint("127.0.0.1", 0, samples)) as endpoint,
        LOCAL.open(f"http://127.0.0.1:{endpoint.port}/metrics", timeout=10) as answer,
    ):
        return str(answer.read().decode())


@pytest.fixture(scope="module")
def exported() -> dict[str, set[str]]:
    """Return the labels of each metric that a coordinator or a server shows, by its name."""
    tables = ServedTables(0, b"a secret of enough bytes", 1)
    tables.create(json.dumps(Table("item", dim=4).to_dict()))
    tables.native.listen_tcp("127.0.0.1", 0)
    routing = Routing(1, np.zeros(4096, np.uint16), no_backups(), np.ones(4096, np.uint64))
    tables.follow(routing)
    with closing(Cluster(Database(IN_MEMORY), ClusterOptions(), ServerClient)) as cluster:
        cluster.register_worker("it", 0, 1)
        assert cluster.heartbeat("it", Progress())
        # No server is there to place slots on.
        placed = replace(cluster.state, routing=replace(routing, servers={0: SERVER}))
        text = shown(lambda: coordinator.samples(cluster)) + shown(lambda: server.samples(tables))
        text += shown(lambda: coordinator.state_samples(placed, 0.0))
    tables.native.stop()
    found: dict[str, set[str]] = {}
    for name, labels in re.findall(r"^(embery_\w+)(?:\{(.*)\})? ", text, re.MULTILINE):
        found.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    return found


def expressions(file: Path) -> Iterator[str]:
    if file == DASHBOARD:
        dashboard = json.loads(file.read_text())
        for panel in dashboard["panels"]:
            yield from (target["expr"] for target in panel.get("targets", []))
        variables = dashboard["templating"]["list"]
        yield from (v["query"]["query"] for v in variables if v["type"] == "query")
    else:
        # An expression goes on in the lines that are indented more.
        yield from re.findall(r"^ +expr: (.*(?:\n {10,}.*)*)", file.read_text(), re.MULTILINE)


@pytest.mark.parametrize("file", [RULES, DASHBOARD], ids=lambda file: file.name)
def test_every_metric_and_label_asked_for_is_shown(
    exported: dict[str, set[str]], file: Path
) -> None:
    found = list(expressions(file))
    assert len(found) > 5
    for expression in found:
        names = re.findall(r"\bembery_[a-z_]+", re.sub(r'"[^"]*"', '""', expression))
        assert set(names) <= set(exported), expression
        labels = set(re.findall(r"(\w+)(?:=~?|!=)\"", expression))
        for group in re.findall(r"\bby \(([^)]*)\)", expression):
            labels.update(group.replace(" ", "").split(","))
        known = THEIRS.union(*(exported[name] for name in names))
        assert labels <= known, expression


def test_the_page_on_monitoring_names_what_is_shown_and_every_alert(
    exported: dict[str, set[str]],
) -> None:
    page = (ROOT / "docs" / "operating" / "monitoring.md").read_text()
    written = set(re.findall(r"`(embery_[a-z_]+)", page))
    base = {re.sub("_(bucket|sum|count)$", "", name) for name in exported if "seconds" in name}
    assert written == base | {name for name in exported if "request_seconds" not in name}
    alerts = re.findall(r"alert: (\w+)", RULES.read_text())
    assert [name for name in alerts if f"`{name}`" not in page] == []


def test_prometheus_takes_the_rules_and_the_configuration() -> None:
    if shutil.which("promtool") is None:
        pytest.skip("needs promtool (Debian package prometheus)")
    for kind, file in (("rules", RULES), ("config", FOLDER / "prometheus.yml")):
        checked = subprocess.run(
            ["promtool", "check", kind, file],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert checked.returncode == 0, checked.stdout + checked.stderr
