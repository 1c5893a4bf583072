"""Roles: what the launcher asks an engine to start, and what the engine hands back."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol


@dataclass(frozen=True, slots=True)
class Role:
    """One process of a run.

    Args:
        name: unique in the run, such as "worker 1".
        command: program and arguments.
        environment: variables set beside those of the launcher.
        ready: how the line begins that the process prints once others may rely on it; None where
            nobody waits for it.
        leaving: how the line begins after which it may end with code 0 while others go on; None
            where it must not.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    ready: str | None = None
    leaving: str | None = None


class Process(Protocol):
    """A role that was started."""

    @property
    def outputs(self) -> tuple[BinaryIO, BinaryIO]:
        """Return what it prints, standard output and standard error, unbuffered."""
        ...

    def poll(self) -> int | None:
        """Return its exit code (minus the signal's number where one ended it), None if it runs."""
        ...

    def send(self, number: signal.Signals) -> None:
        """Send a signal to it and to every process it started; nothing if it has ended."""
        ...


class Engine(Protocol):
    """Where roles run."""

    def start(self, role: Role) -> Process:
        """Start `role`.

        Raises:
            Unavailable: it cannot be started.
        """
        ...
