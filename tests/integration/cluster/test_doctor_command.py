"""`embery doctor --store`: how this machine reaches a running cluster."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from embery import __version__
from embery.cli import cluster_checks
from embery.cli.main import main
from embery.rpc import about
from embery.rpc.client import CoordinatorClient
from embery.rpc.credentials import Credentials
from embery.rpc.serving import RpcServer


@pytest.fixture(scope="module")
def url(run_cluster: Any) -> Iterator[str]:
    with run_cluster(2) as url:
        # Servers are ready before the slots are placed on them.
        with closing(CoordinatorClient(url)) as coordinator:
            coordinator.routing()
        yield url


def findings(capsys: Any, *argv: str, code: int = 0) -> dict[str, dict[str, str]]:
    assert main(["doctor", "--json", *argv]) == code
    return {finding["name"]: finding for finding in json.loads(capsys.readouterr().out)}


def test_each_role_is_reached_and_says_its_version(capsys: Any, url: str) -> None:
    found = findings(capsys, "--store", url)
    assert found["coordinator"]["found"].startswith(url.removeprefix("embery://"))
    assert found["clock"]["status"] == "ok"
    for name in ("server 0", "server 1"):
        assert found[name]["status"] == "ok"
        assert ", live, by shm" in found[name]["found"]
        assert found[name]["found"].endswith(f"; embery {__version__}")


def test_why_a_transport_is_not_taken_is_said(
    capsys: Any, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBERY_STORE", url)
    found = findings(capsys, "--transport", "grpc")
    assert "by grpc (shm: grpc was asked for; " in found["server 1"]["found"]
    monkeypatch.setenv("EMBERY_HOST_IDENTITY", "another machine")
    found = findings(capsys, "--transport", "tcp")["server 0"]["found"]
    assert re.search(r"by tcp \(.*shm: worker and server share no host\)", found)
    refused = findings(capsys, "--transport", "shm", code=1)["server 0"]
    assert refused["status"] == "failed"
    assert "cannot be had: shm: worker and server share no host" in refused["found"]


def test_another_version_is_noted(capsys: Any, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_checks, "__version__", "9.9")
    for name, finding in findings(capsys, "--store", url).items():
        if name == "coordinator" or name.startswith("server"):
            assert finding["status"] == "note"
            assert f"embery {__version__}, and 9.9 here" in finding["found"]


def test_a_cluster_that_cannot_be_reached_fails(capsys: Any) -> None:
    refused = findings(capsys, "--store", "embery://127.0.0.1:1", code=1)["coordinator"]
    assert "nothing listens there" in refused["found"]


def test_a_role_of_another_version_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(about, "__version__", "9.9")
    server = RpcServer("127.0.0.1", 0, Credentials())
    server.start()
    try:
        told = about.describe(server.address, None, 10.0, role="server 0")
    finally:
        server.stop()
    assert told.version == "9.9"
    assert abs(told.clock_ahead_s) <= told.error_s + 0.1
