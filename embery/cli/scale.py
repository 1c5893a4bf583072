"""`embery scale`: change how many servers or workers a cluster has, while training goes on."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from embery.cli.command import add_json_argument, print_json
from embery.cli.membership import (
    add_cluster_arguments,
    add_wait_argument,
    open_cluster,
    wait_until,
)
from embery.errors import InvalidArgument
from embery.place import WORKERS_MAX
from embery.validation import require_int

if TYPE_CHECKING:
    from embery.rpc.client import ClusterStatus

EXAMPLE = "embery scale --ps 4 --store embery://127.0.0.1:7070"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--ps", type=int, metavar="N", help="servers that shall be there")
    parser.add_argument(
        "--workers",
        type=int,
        metavar="M",
        help="workers that shall be there, in a run of `embery run --elastic`",
    )
    add_wait_argument(parser)
    add_json_argument(parser)
    add_cluster_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Say how many servers there shall be, and wait until slots are shared out among them.

    `embery run` starts those that are missing; where servers are started one by one, start them.
    """
    if arguments.ps is None and arguments.workers is None:
        raise InvalidArgument("embery scale: give --ps N, --workers M or both")
    with open_cluster(arguments) as coordinator:
        left = 0
        if arguments.workers is not None:
            require_int("--workers", arguments.workers, low=1, high=WORKERS_MAX)
            coordinator.scale(workers=arguments.workers)
        if arguments.ps is not None:
            coordinator.scale(arguments.ps)
            left = wait_until(coordinator, _left, arguments.wait)
        if arguments.workers is not None:
            left += wait_until(coordinator, _missing, arguments.wait, unit="workers")
        status = coordinator.status()
    slots = {n: int((status.routing.owners == n).sum()) for n in sorted(status.routing.servers)}
    owning = {number: count for number, count in slots.items() if count}
    if arguments.json:
        workers = len(status.group)
        print_json(
            {"ps": arguments.ps, "slots": owning, "reason": status.reason, "workers": workers}
        )
    else:
        print(f"{len(owning)} servers own slots: {status.reason}")
        if arguments.workers is not None:
            print(f"{len(status.group)} workers train together")
    return 0 if left == 0 or not arguments.wait else 1


def _missing(status: ClusterStatus) -> int:
    """Return how many workers have to come or go."""
    return abs(status.wanted_workers - len(status.group))


def _left(status: ClusterStatus) -> int:
    """Return how many slots have to move, or more than 0 while servers are missing."""
    staying = [
        s.number for s in status.routing.servers.values() if s.state == "live" and not s.draining
    ]
    if len(staying) < status.wanted_servers:
        return len(status.routing.owners)
    fair = len(status.routing.owners) // max(1, len(staying))
    counts = {number: int((status.routing.owners == number).sum()) for number in staying}
    elsewhere = len(status.routing.owners) - sum(counts.values())
    return elsewhere + sum(max(0, fair - count) for count in counts.values())
