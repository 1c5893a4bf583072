"""Starts roles, watches all of them at once, and ends them together.

One thread waits for everything in one place: the roles' output, the end of a role (SIGCHLD), and
signals to the launcher. Whatever happens, no role outlives the `with` block of its supervisor.
"""

from __future__ import annotations

import os
import selectors
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, BinaryIO

from embery.errors import EmberyError, InvalidArgument
from embery.launch.console import STREAMS, Console, Stream
from embery.launch.contract import PEER_LOST
from embery.launch.role import Engine, Process, Role

_READ_BYTES = 1 << 16
# So long the output of a role that has ended may still come through its pipes.
_DRAIN_S = 2.0
# So long after a failure others count as failed with it.
_SETTLE_S = 1.0


class RoleFailed(EmberyError):
    """A role ended that should not have, or did not get ready.

    Args:
        role: its name.
        reason: such as "exited with code 1".
        tail: the last lines that it printed.
    """

    def __init__(self, role: str, reason: str, tail: Sequence[str]) -> None:
        super().__init__(f"{role} {reason}")
        self.role, self.reason, self.tail = role, reason, list(tail)


class Terminated(EmberyError):
    """The launcher was asked to end, by a signal other than Ctrl-C's."""


@dataclass(slots=True)
class _Running:
    role: Role
    process: Process
    ready_line: str | None = None
    # Output streams that have not come to their end.
    open_streams: int = len(STREAMS)
    code: int | None = None
    expected: bool = False
    # Whether it has said that it leaves, its work undone.
    left: bool = False

    @property
    def failed(self) -> bool:
        return self.code is not None and not (self.expected and self.code == 0)

    @property
    def useful(self) -> bool:
        """Whether it is at work, or has done it."""
        return self.code is None or (self.code == 0 and not self.left)


class Supervisor:
    """Runs roles; a context manager, to be used in the main thread.

    Args:
        engine: starts them.
        console: shows what they print.
        grace_s: how long a role may take to end when asked to, before it is killed.
    """

    def __init__(self, engine: Engine, console: Console, *, grace_s: float) -> None:
        self._engine, self._console, self._grace_s = engine, console, grace_s
        self._running: dict[str, _Running] = {}
        self._selector = selectors.DefaultSelector()
        self._received: list[signal.Signals] = []
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Supervisor:
        # The handlers only take note: the wake-up pipe ends the wait, and the wait acts.
        self._wake_read, self._wake_write = os.pipe()
        for end in (self._wake_read, self._wake_write):
            os.set_blocking(end, False)
        self._previous_fd = signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        self._selector.register(self._wake_read, selectors.EVENT_READ, None)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
            self._handlers[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.stop([run.role for run in self._running.values()], signal.SIGTERM)
        finally:
            signal.set_wakeup_fd(self._previous_fd)
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
            self._selector.close()
            os.close(self._wake_read)
            os.close(self._wake_write)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if number != signal.SIGCHLD:
            self._received.append(signal.Signals(number))

    # -- what a run does --------------------------------------------------------------------------

    def start(self, roles: Sequence[Role]) -> None:
        """Start `roles`.

        Raises:
            InvalidArgument: a role of this name was started already.
            Unavailable: one cannot be started; those before it run.
        """
        for role in roles:
            if role.name in self._running:
                raise InvalidArgument(f"role {role.name!r} runs already; names must be unique")
            self._console.add(role.name)
            run = _Running(role, self._engine.start(role))
            self._running[role.name] = run
            for stream, pipe in zip(STREAMS, run.process.outputs, strict=True):
                self._selector.register(pipe, selectors.EVENT_READ, (run, stream))

    def wait_ready(self, roles: Sequence[Role], *, timeout_s: float) -> list[str]:
        """Wait until each of `roles` has printed the line that says so; return the lines.

        Raises:
            RoleFailed: one ended, or did not print it in time.
            KeyboardInterrupt, Terminated: a signal came.
        """
        waited = [self._running[role.name] for role in roles]
        if not self._wait(lambda: all(run.ready_line for run in waited), timeout_s=timeout_s):
            late = next(run.role.name for run in waited if not run.ready_line)
            reason = f"did not get ready within {timeout_s:g} s"
            raise RoleFailed(late, reason, self._console.tail(late))
        return [run.ready_line or "" for run in waited]

    def wait_finished(
        self,
        roles: Sequence[Role],
        *,
        meanwhile: Callable[[], None] | None = None,
        every_s: float = 1.0,
    ) -> None:
        """Wait until each of `roles` has ended, however long that takes: with code 0, unless it is
        expendable.

        Args:
            roles: more may be added meanwhile.
            meanwhile: is called now and then, every `every_s` seconds.

        Raises:
            RoleFailed: one ended with another code, or a role that is not among them ended.
            KeyboardInterrupt, Terminated: a signal came.
        """

        def finished() -> bool:
            waited = [self._running[role.name] for role in roles]
            for run in waited:
                run.expected = True
            return all(run.code is not None for run in waited)

        while not self._wait(
            finished,
            timeout_s=None if meanwhile is None else every_s,
        ):
            if meanwhile is not None:
                meanwhile()

    def codes(self, roles: Sequence[Role]) -> list[int | None]:
        """Return the exit code of each of `roles` that did not leave; None of one that runs."""
        runs = [self._running[role.name] for role in roles]
        return [run.code for run in runs if not run.left]

    def stop(self, roles: Sequence[Role], number: signal.Signals) -> None:
        """End `roles`: by the signal, and by SIGKILL after the grace period or another Ctrl-C."""
        stopping = [self._running[role.name] for role in roles]
        self._received.clear()
        for run in stopping:
            run.expected = True
            if run.code is None:
                run.process.send(number)
        deadline = time.monotonic() + self._grace_s
        while any(run.code is None for run in stopping) and not self._received:
            if not self._wait_once(deadline):
                break
        for run in stopping:
            run.process.send(signal.SIGKILL)
        # A killed process ends, whatever it is doing; only its last words may take a moment.
        deadline = time.monotonic() + _DRAIN_S
        while any(run.code is None or run.open_streams for run in stopping):
            if not self._wait_once(deadline):
                break

    # -- waiting ----------------------------------------------------------------------------------

    def _wait(self, done: Callable[[], bool], *, timeout_s: float | None = None) -> bool:
        """Wait until `done`; return False if the time is up before."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not done():
            if not self._wait_once(deadline):
                return False
            if signal.SIGINT in self._received:
                raise KeyboardInterrupt
            if self._received:
                raise Terminated(f"ended by {self._received[0].name}")
            if any(map(self._is_fatal, self._running.values())):
                raise self._failure()
        return True

    def _wait_once(self, deadline: float | None) -> bool:
        """Wait until something happens and take note of it; return False once time is up."""
        left_s = None if deadline is None else deadline - time.monotonic()
        if left_s is not None and left_s <= 0:
            return False
        for key, _ in self._selector.select(left_s):
            if key.data is None:
                os.read(self._wake_read, _READ_BYTES)
            else:
                run, stream = key.data
                self._read(run, stream, key.fileobj)  # type: ignore[arg-type]
        for run in self._running.values():
            if run.code is None:
                run.code = run.process.poll()
        return True

    def _read(self, run: _Running, stream: Stream, pipe: BinaryIO) -> None:
        data = os.read(pipe.fileno(), _READ_BYTES)
        for line in self._console.feed(run.role.name, stream, data):
            if run.role.ready is not None and line.startswith(run.role.ready):
                run.ready_line = line
            if run.role.leaving is not None and line.startswith(run.role.leaving):
                run.expected = run.left = True
        if not data:
            self._selector.unregister(pipe)
            pipe.close()
            run.open_streams -= 1

    def _failure(self) -> RoleFailed:
        """Return what to tell of the roles that have failed: the first that was not a victim.

        When a worker fails the others lose it, and may be gone before it is. So others get a moment
        to fail as well, and their output to arrive.
        """
        order = [run for run in self._running.values() if run.failed]
        deadline = time.monotonic() + _SETTLE_S
        while self._wait_once(deadline):
            found = [r for r in self._running.values() if r.failed and r not in order]
            order += found
            if all(run.open_streams == 0 for run in order) and not all(map(self._victim, order)):
                break
        run = next((run for run in order if not self._victim(run)), order[0])
        return RoleFailed(run.role.name, _reason(run.code), self._console.tail(run.role.name))

    def _is_fatal(self, run: _Running) -> bool:
        if not (run.failed and run.role.expendable):
            return run.failed
        return not any(r.role.kind == run.role.kind and r.useful for r in self._running.values())

    def _victim(self, run: _Running) -> bool:
        return any(PEER_LOST in line for line in self._console.tail(run.role.name))


def _reason(code: int | None) -> str:
    assert code is not None
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
