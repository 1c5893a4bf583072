"""`embery coordinator`: membership, routing and the tables of a cluster."""

from __future__ import annotations

import argparse

from embery.cli.serving import (
    UntilSignal,
    add_credential_arguments,
    add_listen_arguments,
    credentials_of,
    metrics,
)
from embery.coordinator.role import Coordinator, CoordinatorOptions
from embery.coordinator.state import ClusterOptions

EXAMPLE = "embery coordinator --port 7070 --state cluster.sqlite --expect-ps 2"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    plain, cluster = CoordinatorOptions(), ClusterOptions()
    add_listen_arguments(parser)
    parser.add_argument(
        "--state",
        default=plain.state,
        metavar="FILE",
        help="SQLite file from which a coordinator that is started again goes on "
        "(default: none, all is forgotten at the end)",
    )
    parser.add_argument(
        "--expect-ps",
        type=int,
        default=cluster.expect_servers,
        metavar="N",
        help=f"place slots when so many servers are there (default: {cluster.expect_servers})",
    )
    parser.add_argument(
        "--heartbeat",
        type=float,
        default=cluster.heartbeat_s,
        metavar="SECONDS",
        help=f"how often members say that they are there (default: {cluster.heartbeat_s:g})",
    )
    parser.add_argument(
        "--lease",
        type=float,
        default=cluster.lease_s,
        metavar="SECONDS",
        help=f"a member not heard of for so long is lost (default: {cluster.lease_s:g})",
    )
    add_replicas_argument(parser)
    add_credential_arguments(parser)


def add_replicas_argument(parser: argparse.ArgumentParser) -> None:
    """Declare how many servers have each slot."""
    parser.add_argument(
        "--replicas",
        type=int,
        default=ClusterOptions().replicas,
        metavar="R",
        help="servers that have each row: with 2, one that is killed takes nothing along, and "
        "training goes on (default: 1)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal comes."""
    ended = UntilSignal()
    options = CoordinatorOptions(
        host=arguments.host,
        port=arguments.port,
        state=arguments.state,
        insecure=arguments.insecure,
        cluster=ClusterOptions(
            arguments.expect_ps, arguments.heartbeat, arguments.lease, arguments.replicas
        ),
        credentials=credentials_of(arguments),
    )
    with Coordinator(options) as coordinator, metrics(arguments, coordinator.samples):
        print(f"coordinator ready at {coordinator.url}", flush=True)
        ended.wait()
    return 0
