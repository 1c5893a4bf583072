"""What the commands that change or show a cluster's members share."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from embery.cli.serving import add_credential_arguments, credentials_of
from embery.errors import InvalidArgument
from embery.observability.progress import progress
from embery.validation import require_range

if TYPE_CHECKING:
    from embery.rpc.client import ClusterStatus, CoordinatorClient
    from embery.store import Store

TIMEOUT_S = 5.0
POLL_S = 0.1
WAIT_SECONDS_MAX = 86_400.0


def add_cluster_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare `--store` and the credentials."""
    parser.add_argument("--store", metavar="URL", help="the coordinator (default: $EMBERY_STORE)")
    add_credential_arguments(parser)


def add_wait_argument(parser: argparse.ArgumentParser) -> None:
    """Declare `--wait`."""
    parser.add_argument(
        "--wait",
        type=float,
        default=600.0,
        metavar="SECONDS",
        help="for how long to wait until slots are where they shall be (default: 600; 0: return "
        "at once)",
    )


@contextmanager
def open_cluster(arguments: argparse.Namespace) -> Iterator[CoordinatorClient]:
    """Yield a client of the coordinator that the command line or the environment names."""
    from embery.rpc.client import CoordinatorClient  # noqa: PLC0415  gRPC is slow to import

    coordinator = CoordinatorClient(_url_of(arguments), credentials_of(arguments), TIMEOUT_S)
    try:
        yield coordinator
    finally:
        coordinator.close()


def open_store(arguments: argparse.Namespace) -> Store:
    """Return the store on the cluster that the command line or the environment names."""
    from embery.store import connect  # noqa: PLC0415  native code is slow to import

    return connect(_url_of(arguments), credentials=credentials_of(arguments))


def _url_of(arguments: argparse.Namespace) -> str:
    from embery.store import URL_VARIABLE  # noqa: PLC0415  as is numpy

    url: str = arguments.store or os.environ.get(URL_VARIABLE, "")
    if not url.startswith("embery://"):
        raise InvalidArgument(
            f"{url or 'no store'!r} is not a cluster; give --store embery://HOST:PORT, the "
            "coordinator's address"
        )
    return url


def wait_until(
    coordinator: CoordinatorClient,
    left: Callable[[ClusterStatus], int],
    wait_s: float,
    *,
    unit: str = "slots",
) -> int:
    """Wait until `left` of the status is 0, with a bar; return what is left when the time is up."""
    require_range("--wait", wait_s, low=0, high=WAIT_SECONDS_MAX)
    deadline = time.monotonic() + wait_s
    rest = first = left(coordinator.status())
    with progress("moving", total=first, unit=unit) as advance:
        while rest and time.monotonic() < deadline:
            time.sleep(POLL_S)
            now = left(coordinator.status())
            advance(max(0, rest - now))
            rest = now
    return rest


def slots_of(status: ClusterStatus, server: int) -> int:
    """Return how many slots a server owns."""
    return int((status.routing.owners == server).sum())
