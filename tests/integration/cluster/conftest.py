from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

_spec = importlib.util.spec_from_file_location("plane", Path(__file__).with_name("plane.py"))
assert _spec is not None
assert _spec.loader is not None
plane = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(plane)


@pytest.fixture(params=["call", "tcp"])
def transport(request: pytest.FixtureRequest) -> str:
    """Return how frames travel: through a Python callable, or over TCP."""
    return str(request.param)


@pytest.fixture
def make_plane(transport: str) -> Iterator[Callable[..., Any]]:
    """Return a maker of planes over the transport; they are stopped after the test."""
    made = []

    def make(tables: Any, *, servers: int) -> Any:
        made.append(plane.Plane(tables, servers=servers, transport=transport))
        return made[-1]

    yield make
    for each in made:
        each.stop()


READY_S = 60


@contextmanager
def role(*arguments: str) -> Iterator[str]:
    """Run a role as a process; yield the line by which it says that it is ready."""
    command = [sys.executable, "-m", "embery.cli.main", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert " ready " in line, f"{arguments[0]} ended with {process.wait(READY_S)}: {line!r}"
        yield line
    finally:
        process.terminate()
        assert process.wait(timeout=READY_S) == 0, f"{arguments[0]} did not end cleanly"


@pytest.fixture(scope="session")
def run_cluster() -> Callable[[int], AbstractContextManager[str]]:
    """Return what runs a coordinator and so many servers as processes, and yields the URL."""

    @contextmanager
    def run(servers: int) -> Iterator[str]:
        with ExitStack() as roles:
            ready = roles.enter_context(role("coordinator", "--expect-ps", str(servers)))
            url = ready.split()[-1]
            for _ in range(servers):
                roles.enter_context(role("ps", "--coordinator", url))
            yield url

    return run
