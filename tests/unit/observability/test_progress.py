"""A bar for a person at a terminal, silence for anything else."""

from __future__ import annotations

import io
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from embery.observability.progress import progress


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_a_bar_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tqdm", reason="tqdm is not installed")
    monkeypatch.setattr(sys, "stdout", _Terminal())
    stream = io.StringIO()
    with progress("saving", total=1000, unit="B", stream=stream) as advance:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(advance, [250] * 4))
        assert "saving" in stream.getvalue()
    assert stream.getvalue().endswith("\r")


def test_a_pipe_sees_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    with progress("saving", total=10, unit="rows", stream=stream) as advance:
        advance(10)
    assert stream.getvalue() == ""
    assert capsys.readouterr() == ("", "")
