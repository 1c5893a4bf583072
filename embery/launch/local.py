"""The engine of one machine: each role is a child process in a session of its own.

A session keeps Ctrl-C on the terminal from reaching the roles: the launcher tells them in the right
order. What a role starts stays in its process group, and ends with it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from embery.errors import Unavailable
from embery.launch.role import Role

_CHILD = str(Path(__file__).with_name("child.py"))


class LocalProcess:
    """See `Process`."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @property
    def outputs(self) -> tuple[BinaryIO, BinaryIO]:
        """See `Process.outputs`."""
        stdout, stderr = self._process.stdout, self._process.stderr
        assert stdout is not None
        assert stderr is not None
        # Popen's pipes are BufferedIO in name; with bufsize=0 they are raw files.
        return stdout, stderr  # type: ignore[return-value]

    def poll(self) -> int | None:
        """See `Process.poll`; what a process that has ended leaves in its group is killed."""
        if self._process.returncode is None:
            # Not reaped yet: until then its number, and so that of its group, is nobody else's.
            ended = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is not None:
                self.send(signal.SIGKILL)
                self._process.wait()
        return self._process.returncode

    def send(self, number: signal.Signals) -> None:
        """See `Process.send`."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)


class LocalEngine:
    """Starts roles on this machine; the kernel kills them should the launcher vanish."""

    def start(self, role: Role) -> LocalProcess:
        """See `Engine.start`."""
        # -I -S: the child needs nothing but the standard library, and should start at once.
        wrapped = [sys.executable, "-I", "-S", _CHILD, str(os.getpid()), *role.command]
        try:
            process = subprocess.Popen(
                wrapped,
                bufsize=0,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, **role.environment},
                start_new_session=True,
            )
        except OSError as error:
            raise Unavailable(f"{role.name} cannot be started: {error}") from error
        return LocalProcess(process)
