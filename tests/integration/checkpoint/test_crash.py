"""A writer that is killed, at whatever point, leaves the old checkpoint or the new one, whole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "crash_program.py"
ROOT = Path(__file__).parents[3]


@pytest.mark.timeout(300)
def test_a_kill_at_any_file_system_call_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(tmp_path)],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    deaths = [json.loads(line) for line in done.stdout.splitlines()]
    calls = {death["what"] for death in deaths}
    assert {"write", "fsync", "open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"} <= calls
    assert {death["left"] for death in deaths} == {1, 2}
    partial = [d for d in deaths if any(name.endswith(".partial") for name in d["litter"])]
    assert len(partial) > 20, "no death fell into the writing itself"
    for death in deaths:
        assert death["after"] == 3, death
        assert len(death["names"]) == 1, f"litter was not cleared: {death}"
