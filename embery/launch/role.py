"""Roles: what the launcher asks an engine to start, and what the engine hands back."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol

# Stands in a command for the address of the machine that the role is placed on.
HOST = "{host}"
# Begins the command of a role that embery itself is.
EMBERY = (sys.executable, "-u", "-m", "embery.cli.main")


@dataclass(frozen=True, slots=True)
class Role:
    """One process of a run.

    Args:
        name: unique in the run, such as "worker 1".
        command: program and arguments; an argument `HOST` is filled in by the engine.
        environment: variables set beside those of the launcher.
        ready: how the line begins that the process prints once others may rely on it; None where
            nobody waits for it.
        leaving: how the line begins after which it may end with code 0 while others go on; None
            where it must not.
        expendable: whether it may fail while another of its kind goes on, or has done its work.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    ready: str | None = None
    leaving: str | None = None
    expendable: bool = False

    @property
    def kind(self) -> str:
        """Return what it is, without which one: "worker"."""
        return self.name.split()[0]

    def command_at(self, host: str) -> tuple[str, ...]:
        """Return the command on a machine of this address."""
        return tuple(host if argument == HOST else argument for argument in self.command)


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

    def reserve(self, name: str) -> AbstractContextManager[tuple[str, int]]:
        """Keep a port free where the role of this name will run, for whoever reuses addresses.

        Yields:
            host and port, by which other roles reach it.

        Raises:
            Unavailable: there is no such place.
        """
        ...
