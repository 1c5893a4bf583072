"""`embery doctor` reports what is there, and fails if something essential is not."""

from __future__ import annotations

import json
import sys
from importlib import metadata
from typing import Any

import numpy as np
import pytest

from embery.cli import doctor
from embery.cli.main import main


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
