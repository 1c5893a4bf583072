"""The checks of `embery doctor --store`: can this machine work with that cluster, and how."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from embery import __version__, _native
from embery.cli.finding import Finding
from embery.errors import EmberyError, InvalidArgument
from embery.rpc.about import Description, describe
from embery.rpc.address import address_of
from embery.rpc.client import CoordinatorClient
from embery.rpc.credentials import Credentials
from embery.rpc.records import ServerInfo
from embery.rpc.server_client import ServerClient
from embery.rpc.transports import TRANSPORTS, connect

TIMEOUT_S = 10.0
# Rows expire by the clocks of the workers; seconds of difference are seconds of their lives.
CLOCK_DIFFERENCE_MAX_S = 1.0
_SAME = "install the same version of embery everywhere"


def cluster_findings(url: str, credentials: Credentials, transport: str) -> Iterator[Finding]:
    """Yield what there is to say of each role, of the clocks, and of the way to each server.

    Args:
        transport: how the servers are to be reached; "auto" takes the best that both ends have.

    Raises:
        InvalidArgument: the URL is none, or the transport unknown.
    """
    address = address_of(url)
    if transport not in TRANSPORTS:
        raise InvalidArgument(
            f"--transport must be one of {', '.join(TRANSPORTS)}, got {transport!r}"
        )
    with closing(CoordinatorClient(url, credentials, TIMEOUT_S)) as coordinator:
        try:
            told = describe(address, credentials, TIMEOUT_S, role="coordinator")
            status = coordinator.status()
        except EmberyError as error:
            yield Finding("coordinator", "failed", str(error))
            return
    yield _of_role("coordinator", f"{address}: {status.reason}", told)
    yield clock_finding(told)
    there = {n: info for n, info in status.routing.servers.items() if info.state != "left"}
    for number, info in sorted(there.items()):
        yield _server(number, info, credentials, transport)


def _of_role(name: str, found: str, told: Description) -> Finding:
    found = f"{found}; embery {told.version}"
    if told.version != __version__:
        return Finding(name, "note", f"{found}, and {__version__} here", _SAME)
    return Finding(name, "ok", found)


def clock_finding(told: Description) -> Finding:
    """Compare the coordinator's clock with this machine's."""
    ahead_s = told.clock_ahead_s
    way = "ahead of" if ahead_s > 0 else "behind"
    found = (
        f"the coordinator's is {abs(ahead_s):.3f} s {way} this machine's, "
        f"give or take {told.error_s:.3f} s"
    )
    if abs(ahead_s) - told.error_s > CLOCK_DIFFERENCE_MAX_S:
        return Finding("clock", "note", found, "synchronise the clocks: rows expire by them")
    return Finding("clock", "ok", found)


def _server(number: int, info: ServerInfo, credentials: Credentials, transport: str) -> Finding:
    """Connect to a server as a worker would, and close the connection."""
    name = f"server {number}"
    try:
        told = describe(info.address, credentials, TIMEOUT_S, role=name)
        with closing(ServerClient(info.address, credentials, TIMEOUT_S)) as server:
            taken, reasons = connect(_native.Client(0), number, server, transport, TIMEOUT_S)
    except EmberyError as error:
        return Finding(name, "failed", f"{info.address}, {info.state}: {error}")
    why = f" ({'; '.join(reasons)})" if reasons else ""
    return _of_role(name, f"{info.address}, {info.state}, by {taken}{why}", told)
