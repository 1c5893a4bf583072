"""`embery bench`: figures of a cluster and of the embedded store, and nothing left behind."""

from __future__ import annotations

import json
from typing import Any

import pytest

import embery as em
from embery.cli.main import main

QUICK = ("--rows", "2000", "--dim", "4", "--seconds", "0.01")


ROWS = (1, 100, 10_000, 100_000)


def measured(capsys: Any, *argv: str) -> dict[str, Any]:
    assert main(["bench", *QUICK, "--json", *argv]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    for rate in report["rates"]:
        assert rate["calls"] >= 1
        assert 0 < rate["p50_ms"] <= rate["p99_ms"]
        assert rate["rows_per_s"] > 0
    return report


def kinds(report: dict[str, Any], transport: str, pushers: int) -> list[tuple[str, int]]:
    """Return the calls that were measured over a transport, with or without a load."""
    return [
        (rate["call"], rate["rows"])
        for rate in report["rates"]
        if (rate["transport"], rate["pushers"]) == (transport, pushers)
    ]


BOTH = [(call, rows) for rows in ROWS for call in ("pull", "push")]


def test_the_embedded_store_is_measured(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EMBERY_STORE", raising=False)
    report = measured(capsys)
    assert (report["store"], report["servers"], report["transports"]) == ("embedded:", 0, [])
    assert kinds(report, "embedded", 0) == BOTH
    assert main(["bench", *QUICK]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3 + 8


def test_a_cluster_is_measured_and_keeps_no_row(capsys: Any, run_cluster: Any) -> None:
    with run_cluster(2) as url:
        report = measured(capsys, "--store", url, "--transport", "tcp")
        assert (report["servers"], report["transports"]) == (2, ["tcp"])
        assert kinds(report, "tcp", 0) == BOTH
        report = measured(capsys, "--store", url, "--pushers", "2")
        assert report["transports"] == ["shm"]
        assert kinds(report, "shm", 0) == BOTH
        assert kinds(report, "shm", 2) == [("pull", rows) for rows in ROWS]
        with em.connect(url) as store:
            table = store.stats()["tables"]["embery bench 4"]
        assert table["rows"] == 0
        assert table["evicted"] == 2 * 2000


def test_every_transport_that_can_be_had_is_measured(capsys: Any, run_cluster: Any) -> None:
    with run_cluster(1) as url:
        report = measured(capsys, "--store", url, "--transport", "all")
    found = {"shm", "tcp", "grpc"} | ({"rdma"} - set(report["missing"]))
    assert report["transports"] == sorted(found)
    for transport in found:
        assert kinds(report, transport, 0) == BOTH
    assert all("cannot be had" in reason for reason in report["missing"].values())


@pytest.mark.parametrize(
    ("option", "value"),
    [("--rows", "0"), ("--seconds", "0"), ("--dim", "0"), ("--pushers", "1")],
)
def test_a_number_out_of_range_is_one_line(capsys: Any, option: str, value: str) -> None:
    assert main(["bench", "--store", "embedded:", option, value]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert option.removeprefix("--") in err
