"""The engine of one machine: each role is a child process in a session of its own.

A session keeps Ctrl-C on the terminal from reaching the roles: the launcher tells them in the right
order. What a role starts stays in its process group, and ends with it. Should the launcher be
killed, the kernel kills the roles at once (`child.py`), and a keeper what these had started.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from embery.errors import Unavailable
from embery.launch.role import Role

# -I -S: they need nothing but the standard library, and should start at once.
_CHILD, _KEEPER = (
    (sys.executable, "-I", "-S", str(Path(__file__).with_name(name)))
    for name in ("child.py", "keeper.py")
)
LOOPBACK = "127.0.0.1"


def reserve_port(host: str = LOOPBACK) -> socket.socket:
    """Return a socket that keeps a port of `host` free, for one that reuses addresses."""
    reserved = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind((host, 0))
    return reserved


class LocalProcess:
    """See `Process`; `on_end` is called with its number when it has ended."""

    def __init__(self, process: subprocess.Popen[bytes], on_end: Callable[[int], None]) -> None:
        self._process, self._on_end = process, on_end

    @property
    def pid(self) -> int:
        """Return the number of the process, which is that of its group too."""
        return self._process.pid

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
                self._on_end(self._process.pid)
                self._process.wait()
        return self._process.returncode

    def send(self, number: signal.Signals) -> None:
        """See `Process.send`."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)


class LocalEngine:
    """Starts roles on this machine; a context manager. See `Engine`.

    Args:
        host: address of this machine, at which roles listen.
    """

    def __init__(self, host: str = LOOPBACK) -> None:
        self.host = host

    def __enter__(self) -> LocalEngine:
        self._keeper = subprocess.Popen(
            _KEEPER, bufsize=0, stdin=subprocess.PIPE, start_new_session=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._keeper.stdin is not None
        self._keeper.stdin.close()
        self._keeper.wait()

    def start(self, role: Role) -> LocalProcess:
        """See `Engine.start`."""
        try:
            process = subprocess.Popen(
                [*_CHILD, str(os.getpid()), *role.command_at(self.host)],
                bufsize=0,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, **role.environment},
                start_new_session=True,
            )
        except OSError as error:
            raise Unavailable(f"{role.name} cannot be started: {error}") from error
        self._tell_keeper(process.pid)
        return LocalProcess(process, lambda group: self._tell_keeper(-group))

    @contextmanager
    def reserve(self, name: str) -> Iterator[tuple[str, int]]:
        """See `Engine.reserve`."""
        with reserve_port(self.host) as reserved:
            yield self.host, reserved.getsockname()[1]

    def _tell_keeper(self, number: int) -> None:
        assert self._keeper.stdin is not None
        # Without a keeper, should somebody have killed it, the roles go on being supervised.
        with suppress(BrokenPipeError):
            self._keeper.stdin.write(b"%d\n" % number)
