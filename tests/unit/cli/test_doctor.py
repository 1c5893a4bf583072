"""`embery doctor` reports what is there, and fails if something essential is not."""

from __future__ import annotations

import json
import resource
import socket
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embery.cli import cluster_checks, doctor
from embery.cli.main import main
from embery.rpc.about import Description


def test_it_reports_versions_processor_memory_and_disk(capsys: Any) -> None:
    assert main(["doctor", "--json"]) == 0
    findings = {finding["name"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert set(findings) == {
        "versions",
        "system",
        "processor",
        "native code",
        "memory",
        "huge pages",
        "locked memory",
        "rdma",
        "torch",
        "disk",
    }
    assert f"numpy {np.__version__}" in findings["versions"]["found"]
    assert "baseline" in findings["native code"]["found"]
    assert all(finding["status"] in ("ok", "note") for finding in findings.values())


def test_text_has_a_line_a_finding(capsys: Any) -> None:
    assert main(["doctor"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(doctor.CHECKS)


def test_missing_native_code_fails_with_advice(
    capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "embery._native", None)
    monkeypatch.delattr("embery._native", raising=False)
    assert main(["doctor"]) == 1
    assert "FAIL  native code" in capsys.readouterr().out


def test_a_missing_package_fails_with_advice(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert main(["doctor"]) == 1
    assert "numpy is missing  (pip install numpy)" in capsys.readouterr().out


def test_missing_torch_is_a_note_and_no_failure(
    capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main(["doctor"]) == 0
    assert "note  torch" in capsys.readouterr().out


def finding_of(capsys: Any, name: str, *argv: str) -> dict[str, str]:
    main(["doctor", "--json", *argv])
    return next(f for f in json.loads(capsys.readouterr().out) if f["name"] == name)


def test_rdma_ports_are_shown_with_state_and_gids(
    capsys: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor, "INFINIBAND", tmp_path)
    assert finding_of(capsys, "rdma")["found"] == "no device; rows travel by shm, tcp or grpc"
    port = tmp_path / "mlx5_0" / "ports" / "1"
    types = port / "gid_attrs" / "types"
    types.mkdir(parents=True)
    (port / "state").write_text("4: ACTIVE\n")
    (port / "link_layer").write_text("Ethernet\n")
    for number, kind in {"0": "IB/RoCE v1", "1": "RoCE v2", "10": "RoCE v2"}.items():
        (types / number).write_text(f"{kind}\n")
    (types / "2").mkdir()  # The kernel refuses to tell the kind of a GID that is empty.
    found = finding_of(capsys, "rdma")["found"]
    assert found == "mlx5_0 port 1 Ethernet active, GIDs IB/RoCE v1 0, RoCE v2 1 10"
    (port / "state").write_text("1: DOWN\n")
    down = finding_of(capsys, "rdma")
    assert down["status"] == "note"
    assert " down," in down["found"]


def test_a_low_limit_of_locked_memory_matters_to_rdma_only(
    capsys: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor, "INFINIBAND", tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (1 << 16, hard))
    try:
        found = finding_of(capsys, "locked memory")
        assert (found["status"], found["found"]) == ("ok", "limit of 0.0625 MiB")
        (tmp_path / "mlx5_0").mkdir()
        assert "ulimit -l unlimited" in finding_of(capsys, "locked memory")["advice"]
    finally:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (soft, hard))


def test_a_port_that_is_taken_fails(capsys: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert main(["doctor", "--port", port]) == 1
        assert f"FAIL  port {port}" in capsys.readouterr().out
    assert finding_of(capsys, f"port {port}", "--port", port)["found"] == "free"


def test_a_wrong_option_is_one_line(capsys: Any) -> None:
    assert main(["doctor", "--port", "70000"]) == 1
    assert "--port must lie in" in capsys.readouterr().err
    assert main(["doctor", "--store", "embery://127.0.0.1:1", "--transport", "pigeon"]) == 1
    assert "--transport must be one of auto, " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("ahead_s", "status", "words"),
    [(0.2, "ok", "0.200 s ahead of"), (-5.0, "note", "5.000 s behind"), (1.2, "ok", "1.200 s")],
)
def test_clocks_that_are_apart_are_noted(ahead_s: float, status: str, words: str) -> None:
    found = cluster_checks.clock_finding(Description("1", ahead_s, error_s=0.3))
    assert found.status == status
    assert words in found.found
