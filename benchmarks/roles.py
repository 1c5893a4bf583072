"""Roles of a cluster as processes of their own, for measurements."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

TIMEOUT_S = 60.0


def start(
    stack: ExitStack, log: Path, *arguments: str, module: str = "embery.cli.main"
) -> tuple[int, str]:
    """Start a role, which `stack` ends, with its log in a file.

    Returns:
        the number of its process, and the first line that it printed, by which it is ready.
    """
    role = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stack.enter_context(log.open("w")),
        text=True,
        env={**os.environ, "EMBERY_LOG": "INFO"},
    )
    stack.callback(role.wait, TIMEOUT_S)
    stack.callback(role.terminate)
    assert role.stdout is not None
    line = role.stdout.readline().strip()
    if not line:
        raise SystemExit(f"{module} {' '.join(arguments)} did not get ready: {log.read_text()}")
    return role.pid, line
