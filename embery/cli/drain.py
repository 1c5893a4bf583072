"""`embery drain`: take a server out of a cluster while training goes on."""

from __future__ import annotations

import argparse

from embery.cli.command import add_json_argument, print_json
from embery.cli.membership import (
    add_cluster_arguments,
    add_wait_argument,
    open_cluster,
    slots_of,
    wait_until,
)

EXAMPLE = "embery drain 1 --store embery://127.0.0.1:7070"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("server", type=int, metavar="SERVER", help="number of the server")
    add_wait_argument(parser)
    add_json_argument(parser)
    add_cluster_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Drain a server, and wait until others have its slots; it ends then."""
    number = arguments.server
    with open_cluster(arguments) as coordinator:
        slots = coordinator.drain(number)
        left = wait_until(coordinator, lambda status: slots_of(status, number), arguments.wait)
    if arguments.json:
        print_json({"server": number, "slots": slots, "left": left})
    else:
        print(f"server {number}: {slots - left} of {slots} slots have gone to others")
    return 0 if left == 0 or not arguments.wait else 1
