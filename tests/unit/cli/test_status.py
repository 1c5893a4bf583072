"""`embery status`: misuse and a coordinator that is not there (a real one: tests/integration)."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from embery.cli import main as cli


def test_a_store_that_is_no_cluster_is_said(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EMBERY_STORE", raising=False)
    for argv in (["status"], ["status", "--store", "embedded:"]):
        assert cli.main(argv) == 1
        err = capsys.readouterr().err
        assert "is not a cluster; give --store embery://HOST:PORT" in err
        assert err.count("\n") == 1


def test_a_coordinator_that_is_not_there_is_said(capsys: Any) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        assert cli.main(["status", "--store", f"embery://127.0.0.1:{port}"]) == 1
    assert f"127.0.0.1:{port}: nothing listens there" in capsys.readouterr().err
