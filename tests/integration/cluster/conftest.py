from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

_spec = importlib.util.spec_from_file_location("plane", Path(__file__).with_name("plane.py"))
assert _spec is not None
assert _spec.loader is not None
plane = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(plane)


@pytest.fixture(params=["call", "shm", "rdma", "tcp"])
def transport(request: pytest.FixtureRequest, require_transport: Callable[[str], None]) -> str:
    """Return how frames travel: through a Python callable, shared memory, RDMA, or TCP."""
    require_transport(request.param)
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
