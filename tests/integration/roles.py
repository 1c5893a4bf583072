"""Roles of a cluster as processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

# Larger on a machine that is emulated.
DEADLINE_S = float(os.environ.get("EMBERY_TEST_DEADLINE_S", "30"))


class RunningRole:
    """A role in a process of its own; its lines of standard output, and how it ends.

    Args:
        arguments: of `embery`.
        log: what it writes to standard error goes there; None is a file without a name, for a pipe
            that nobody reads would stop it.
        within: a command that runs the role, such as `ip netns exec NAME`.
        environment: variables beside those of this process.
    """

    def __init__(
        self,
        *arguments: str,
        log: Path | None = None,
        within: Sequence[str] = (),
        **environment: str,
    ) -> None:
        self._errors: IO[str] = (
            tempfile.TemporaryFile("w+") if log is None else log.open("w+")  # noqa: SIM115
        )
        self.process = subprocess.Popen(
            [*within, sys.executable, "-m", "embery.cli.main", *arguments],
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def line(self) -> str:
        """Return its next line; fail if none comes in time."""
        assert self.process.stdout is not None
        ended = threading.Timer(DEADLINE_S, self.process.kill)
        ended.start()
        try:
            line = self.process.stdout.readline().strip()
        finally:
            ended.cancel()
        assert line, self.finish()
        return line

    def finish(self, number: signal.Signals | None = None) -> tuple[int, str]:
        """Send a signal, if any, and return exit code and standard error."""
        if number is not None:
            self.process.send_signal(number)
        self.process.communicate(timeout=DEADLINE_S)
        self._errors.seek(0)
        return self.process.returncode, self._errors.read()

    def stop(self) -> None:
        """End it if it runs, as the end of a test must."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate(timeout=DEADLINE_S)
        self._errors.close()


class Roles(ExitStack):
    """Roles that end with this context."""

    def start(self, *arguments: str, **options: object) -> RunningRole:
        """Start `embery ARGUMENTS`; options are those of `RunningRole`."""
        role = RunningRole(*arguments, **options)  # type: ignore[arg-type]
        self.callback(role.stop)
        return role


@contextmanager
def running(*arguments: str) -> Iterator[RunningRole]:
    """Run a role, and see that it ends cleanly."""
    role = RunningRole(*arguments)
    try:
        yield role
        assert role.finish(signal.SIGTERM)[0] == 0, f"{arguments[0]} did not end cleanly"
    finally:
        role.stop()


def ready_line(role: RunningRole) -> str:
    """Return the first line of a role, by which it is ready."""
    line = role.line()
    assert " ready " in line, line
    return line
