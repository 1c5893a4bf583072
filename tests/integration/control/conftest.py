from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

DEADLINE_S = 30.0


class RunningRole:
    """A role in a process of its own; its lines of standard output, and how it ends."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "embery.cli.main", *arguments],
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
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
        _, errors = self.process.communicate(timeout=DEADLINE_S)
        return self.process.returncode, errors

    def stop(self) -> None:
        """End it if it runs, as the end of a test must."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate(timeout=DEADLINE_S)


@pytest.fixture
def start() -> Iterator[Callable[..., RunningRole]]:
    """Return what starts `embery ARGUMENTS`; all of it is ended after the test."""
    running: list[RunningRole] = []

    def start_role(*arguments: str, **environment: str) -> RunningRole:
        running.append(RunningRole(*arguments, **environment))
        return running[-1]

    yield start_role
    for role in running:
        role.stop()


@pytest.fixture
def start_coordinator(start: Callable[..., RunningRole]) -> Callable[..., tuple[RunningRole, str]]:
    """Return what starts a coordinator and returns it with its URL."""

    def start_one(*arguments: str) -> tuple[RunningRole, str]:
        role = start("coordinator", *arguments)
        line = role.line()
        assert line.startswith("coordinator ready at embery://"), line
        return role, line.removeprefix("coordinator ready at ")

    return start_one


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return an authority, "cert" and "key" of a role from it, and "other_ca", a stranger."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the command openssl (Debian package openssl)")
    folder = tmp_path_factory.mktemp("tls")
    paths = {name: folder / f"{name}.pem" for name in ("ca", "other_ca", "cert", "key")}

    def openssl(*arguments: str | Path) -> None:
        subprocess.run(
            ["openssl", *map(str, arguments)], check=True, capture_output=True, cwd=folder
        )

    def authority(name: str) -> None:
        openssl(
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
            "-keyout", f"{name}.key", "-out", paths[name],
        )  # fmt: skip

    authority("ca")
    authority("other_ca")
    openssl(
        "req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=role",
        "-keyout", paths["key"], "-out", "role.csr",
    )  # fmt: skip
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1")
    openssl(
        "x509", "-req", "-in", "role.csr", "-CA", paths["ca"], "-CAkey", "ca.key", "-days", "2",
        "-CAcreateserial", "-extfile", "names", "-out", paths["cert"],
    )  # fmt: skip
    return paths
