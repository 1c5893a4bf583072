"""What a harness that is root can break of a machine: links of a network, and room on a disk."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

# Room for the state and for its journal, which grows to some 4 MB before it is begun anew.
STATE_BYTES = 16 << 20


def sh(*command: object) -> None:
    """Run a command; its failure is ours."""
    subprocess.run([str(part) for part in command], check=True)


def problem() -> str:
    """Return why links and disks cannot be broken here; "" if they can."""
    if os.geteuid() != 0:
        return "only root can make network namespaces and mount a file system"
    missing = [name for name in ("ip", "mount") if shutil.which(name) is None]
    return f"there is no command {missing[0]} here" if missing else ""


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Mount a small file system on a folder."""
    folder.mkdir()
    sh("mount", "-t", "tmpfs", "-o", f"size={STATE_BYTES}", "tmpfs", folder)
    try:
        yield
    finally:
        sh("umount", folder)


@contextmanager
def full(folder: Path) -> Iterator[None]:
    """Leave no room on the file system of a folder."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(folder).free)
    try:
        yield
    finally:
        ballast.unlink()


class Network:
    """Places, each a network namespace with an address, joined by a bridge that this process is at.

    Args:
        stack: removes all of it.
    """

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._name = f"embery{os.getpid()}"
        self._places = 0
        self._hub = self._namespace("hub")
        sh("ip", "-n", self._hub, "link", "add", "bridge", "type", "bridge")
        sh("ip", "-n", self._hub, "link", "set", "bridge", "up")
        own = f"em{os.getpid()}"
        sh("ip", "link", "add", own, "type", "veth", "peer", "name", "own", "netns", self._hub)
        sh("ip", "address", "add", "10.98.0.1/16", "dev", own)
        sh("ip", "link", "set", own, "up")
        sh("ip", "-n", self._hub, "link", "set", "own", "master", "bridge", "up")

    def _namespace(self, suffix: str) -> str:
        name = f"{self._name}-{suffix}"
        sh("ip", "netns", "add", name)
        self._stack.callback(subprocess.run, ["ip", "netns", "del", name], check=False)
        sh("ip", "-n", name, "link", "set", "lo", "up")
        return name

    def place(self) -> tuple[str, tuple[str, ...]]:
        """Return the address of a new place, and the command that runs a program there."""
        self._places += 1
        number = self._places
        address = f"10.98.{number // 200 + 1}.{number % 200 + 1}"
        name = self._namespace(str(number))
        sh("ip", "-n", name, "link", "add", "eth0", "type", "veth",
           "peer", "name", address, "netns", self._hub)  # fmt: skip
        sh("ip", "-n", name, "address", "add", f"{address}/16", "dev", "eth0")
        sh("ip", "-n", name, "link", "set", "eth0", "up")
        sh("ip", "-n", self._hub, "link", "set", address, "master", "bridge", "up")
        return address, ("ip", "netns", "exec", name)

    @contextmanager
    def cut_off(self, address: str) -> Iterator[None]:
        """Let nothing through to and from a place: packets are lost, and nobody is told."""
        sh("ip", "-n", self._hub, "link", "set", address, "down")
        try:
            yield
        finally:
            sh("ip", "-n", self._hub, "link", "set", address, "up")
