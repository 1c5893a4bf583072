from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest

from embery import _native
from embery.errors import Unavailable
from embery.rpc.transports import rdma_choice
from tests.integration.roles import Roles, RunningRole, ready_line, running


@pytest.fixture(scope="session")
def run_cluster() -> Callable[[int], AbstractContextManager[str]]:
    """Return what runs a coordinator and so many servers, and yields the URL."""

    @contextmanager
    def run(servers: int) -> Iterator[str]:
        with ExitStack() as roles:
            coordinator = roles.enter_context(running("coordinator", "--expect-ps", str(servers)))
            url = ready_line(coordinator).split()[-1]
            command = ("ps", "--coordinator", url, "--drain", "0")
            # All at once: to start takes half a minute on an emulated machine.
            for server in [roles.enter_context(running(*command)) for _ in range(servers)]:
                ready_line(server)
            yield url

    return run


@pytest.fixture(scope="session")
def rdma_problem() -> str:
    """Return why rows cannot travel by RDMA here; "" if they can."""
    server = _native.Server(_native.Store(1, "auto"), server=0, secret=bytes(16), threads=1)
    try:
        server.listen_rdma(*rdma_choice())
    except Unavailable as error:
        return str(error)
    finally:
        server.stop()
    return ""


def rdma_packets() -> list[int]:
    """Return how many packets each port has sent, where the device counts them so."""
    counters = Path("/sys/class/infiniband").glob("*/ports/*/hw_counters/sent_pkts")
    return [int(counter.read_text(encoding="ascii")) for counter in sorted(counters)]


@pytest.fixture
def require_transport(rdma_problem: str) -> Iterator[Callable[[str], None]]:
    """Return what skips a test of a transport that cannot be had here.

    With EMBERY_RDMA_REQUIRED=1, as `make test-rdma` sets it, the test fails instead. A test of RDMA
    fails too if nothing has gone through the device.
    """
    before: list[int] = []

    def require(transport: str) -> None:
        if transport == "rdma" and rdma_problem:
            assert os.environ.get("EMBERY_RDMA_REQUIRED") != "1", rdma_problem
            pytest.skip(rdma_problem)
        before[:] = rdma_packets() if transport == "rdma" else []

    yield require
    assert not before or sum(rdma_packets()) > sum(before)


@pytest.fixture
def start() -> Iterator[Callable[..., RunningRole]]:
    """Return what starts `embery ARGUMENTS`; all of it is ended after the test."""
    with Roles() as roles:
        yield roles.start


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
