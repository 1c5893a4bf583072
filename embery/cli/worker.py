"""`embery worker`: a training script as one of the workers of a cluster."""

from __future__ import annotations

import argparse
import os
import sys
from typing import NoReturn

from embery.cli.command import fail
from embery.cli.serving import add_credential_arguments, credentials_of
from embery.errors import InvalidArgument
from embery.place import DATA_INTERFACE_VARIABLE, RANK_VARIABLE, WORLD_SIZE_VARIABLE, Place
from embery.rpc.address import SCHEME, split_address
from embery.rpc.credentials import VARIABLES
from embery.rpc.transports import GRAD_INTERFACE_VARIABLE, TRANSPORT_VARIABLE, TRANSPORTS
from embery.store import URL_VARIABLE

EXAMPLE = (
    "embery worker --store embery://10.0.0.1:7070 --rank 0 --world-size 2 "
    "--master 10.0.0.3:29500 train.py --epochs 3"
)
MISUSED = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--store", metavar="URL", help=f"the cluster's coordinator (default: ${URL_VARIABLE})"
    )
    parser.add_argument(
        "--rank",
        metavar="R",
        help=f"which of the workers this is, from 0 on (default: ${RANK_VARIABLE}, else 0)",
    )
    parser.add_argument(
        "--world-size",
        metavar="M",
        help=f"how many workers there are (default: ${WORLD_SIZE_VARIABLE}, else 1)",
    )
    parser.add_argument(
        "--master",
        metavar="HOST:PORT",
        help="where rank 0 listens for the others (default: $MASTER_ADDR and $MASTER_PORT)",
    )
    parser.add_argument(
        "--transport",
        choices=TRANSPORTS,
        help=f"how rows travel (default: ${TRANSPORT_VARIABLE}, else the best that both ends have)",
    )
    parser.add_argument(
        "--grad-interface",
        metavar="NAME",
        help="network interface for rows and gradients over tcp, and for dense gradients "
        f"(default: ${GRAD_INTERFACE_VARIABLE}, else the routes decide)",
    )
    parser.add_argument(
        "--data-interface",
        metavar="NAME",
        help="network interface for samples from s3:// "
        f"(default: ${DATA_INTERFACE_VARIABLE}, else the routes decide)",
    )
    add_credential_arguments(parser)
    parser.add_argument("script", metavar="train.py", help="the training script")
    parser.add_argument(
        "arguments", nargs=argparse.REMAINDER, metavar="ARGS", help="arguments of the script"
    )


def run(arguments: argparse.Namespace) -> int:
    """Become the script's process, so that signals reach it and its exit code is this one's."""
    try:
        environment = {**os.environ, **environment_of(arguments)}
        _require_worker(arguments.script, environment)
    except InvalidArgument as error:
        fail(f"{error}; 'embery worker --help' explains")
        return MISUSED
    command = [sys.executable, "-u", arguments.script, *arguments.arguments]
    return _become(command, environment)


def _become(command: list[str], environment: dict[str, str]) -> NoReturn:
    os.execve(command[0], command, environment)


def environment_of(arguments: argparse.Namespace) -> dict[str, str]:
    """Return the variables that a command line sets; what it leaves out the environment has."""
    host, port = (
        (None, None) if arguments.master is None else split_address(arguments.master, "--master")
    )
    credentials = credentials_of(arguments)
    given = {
        URL_VARIABLE: arguments.store,
        RANK_VARIABLE: arguments.rank,
        WORLD_SIZE_VARIABLE: arguments.world_size,
        "MASTER_ADDR": host,
        "MASTER_PORT": port,
        TRANSPORT_VARIABLE: arguments.transport,
        GRAD_INTERFACE_VARIABLE: arguments.grad_interface,
        "GLOO_SOCKET_IFNAME": arguments.grad_interface,
        DATA_INTERFACE_VARIABLE: arguments.data_interface,
        **{variable: getattr(credentials, field) for field, variable in VARIABLES.items()},
    }
    return {name: str(value) for name, value in given.items() if value is not None}


def _require_worker(script: str, environment: dict[str, str]) -> None:
    """Raise `InvalidArgument` unless a script can be a worker in this environment."""
    url = environment.get(URL_VARIABLE, "")
    if not url.startswith(SCHEME):
        raise InvalidArgument(
            f"--store or ${URL_VARIABLE} must name a cluster, {SCHEME}HOST:PORT, got {url!r}; "
            "without one, run the script by python"
        )
    place = Place.of(environment)
    if place.world_size > 1 and not ("MASTER_ADDR" in environment and "MASTER_PORT" in environment):
        raise InvalidArgument(
            f"{place.world_size} workers must know where rank 0 listens: give --master, or "
            "MASTER_ADDR and MASTER_PORT"
        )
    if not os.path.isfile(script):
        raise InvalidArgument(f"{script}: there is no such file; give the training script")
