"""The committed stubs are those of the committed protos."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
STUBS = ROOT / "embery" / "rpc" / "v1"


def contents(folder: Path) -> dict[str, str]:
    """Return the text of each file."""
    return {path.name: path.read_text() for path in folder.glob("*.py*")}


def test_stubs_are_those_of_the_protos(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools", reason="the generator is a development requirement")
    generator = ROOT / "proto" / "generate.py"
    subprocess.run([sys.executable, str(generator), str(tmp_path / "v1")], check=True)
    fresh = contents(tmp_path / "v1")
    assert len(fresh) > 9
    assert contents(STUBS) == fresh, "the protos have changed: run `make proto`"
