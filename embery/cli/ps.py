"""`embery ps`: a server, which owns slots and serves their rows."""

from __future__ import annotations

import argparse
import os

from embery.cli.serving import (
    UntilSignal,
    add_credential_arguments,
    add_listen_arguments,
    credentials_of,
    metrics,
)
from embery.ps.role import ParameterServer, ServerOptions
from embery.rpc.transports import GRAD_INTERFACE_VARIABLE
from embery.validation import require_range

DRAIN_SECONDS_MAX = 86_400.0
POLL_S = 0.2

EXAMPLE = "embery ps --coordinator embery://127.0.0.1:7070"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--coordinator",
        required=True,
        metavar="URL",
        help="embery://HOST:PORT of the cluster's coordinator",
    )
    add_listen_arguments(parser)
    parser.add_argument(
        "--data-port",
        type=int,
        default=0,
        metavar="P",
        help="port of the tcp data plane (default: 0, a free one)",
    )
    parser.add_argument(
        "--grad-interface",
        default=os.environ.get(GRAD_INTERFACE_VARIABLE, ""),
        metavar="NAME",
        help="network interface for rows and gradients over tcp (default: that of --host, or "
        f"${GRAD_INTERFACE_VARIABLE})",
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=0,
        metavar="N",
        help="threads that serve rows (default: 0, the processors it may use)",
    )
    parser.add_argument(
        "--drain",
        type=float,
        default=25.0,
        metavar="SECONDS",
        help="when asked to end by SIGTERM or Ctrl-C, give its slots to other servers first, for "
        "so long at most (default: 25; 0: end at once, and with it the rows)",
    )
    add_credential_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal comes, or others have its slots."""
    ended = UntilSignal()
    options = ServerOptions(
        arguments.coordinator,
        host=arguments.host,
        port=arguments.port,
        data_port=arguments.data_port,
        grad_interface=arguments.grad_interface,
        threads=arguments.threads,
        insecure=arguments.insecure,
        credentials=credentials_of(arguments),
    )
    require_range("--drain", arguments.drain, low=0, high=DRAIN_SECONDS_MAX)
    with ParameterServer(options) as server, metrics(arguments, server.samples):
        print(f"ps {server.number} ready at {server.address}", flush=True)
        while not ended.wait(POLL_S) and not server.drained.is_set():
            pass
        if not server.drained.is_set() and arguments.drain:
            server.drain(arguments.drain, ended.again)
        if server.drained.is_set():
            print(f"drained: ps {server.number} has given its slots to others", flush=True)
    return 0
