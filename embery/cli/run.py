"""`embery run`: a training script on servers and workers, all on this machine."""

from __future__ import annotations

import argparse
import sys

from embery.cli.command import fail
from embery.errors import InvalidArgument
from embery.launch.cluster import RunOptions, run_cluster
from embery.launch.console import Console
from embery.launch.local import LocalEngine
from embery.launch.supervisor import RoleFailed, Supervisor
from embery.rpc.transports import TRANSPORTS

EXAMPLE = "embery run --ps 2 --workers 2 train.py --epochs 3"
FAILED, MISUSED = 1, 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    plain = RunOptions(script=())
    parser.add_argument("--ps", type=int, default=plain.servers, metavar="N", help="servers")
    parser.add_argument("--workers", type=int, default=plain.workers, metavar="M", help="workers")
    parser.add_argument("--log-dir", metavar="DIR", help="write a log file of each role there")
    parser.add_argument(
        "--transport",
        choices=TRANSPORTS,
        default=plain.transport,
        help="how rows travel between workers and servers (default: the best that both have)",
    )
    parser.add_argument(
        "--grace",
        type=float,
        default=plain.grace_s,
        metavar="SECONDS",
        help=f"how long a role may take to end when asked to (default: {plain.grace_s:g})",
    )
    parser.add_argument(
        "--restarts",
        type=int,
        default=0,
        metavar="N",
        help="when a role fails, start everything anew, up to N times; a script that trains with "
        "fit(checkpoint=..., resume=True) goes on from its last checkpoint (default: 0)",
    )
    parser.add_argument("script", metavar="train.py", help="the training script")
    parser.add_argument(
        "arguments", nargs=argparse.REMAINDER, metavar="ARGS", help="arguments of the script"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run until every worker has finished, or one role fails."""
    options = RunOptions(
        script=(arguments.script, *arguments.arguments),
        servers=arguments.ps,
        workers=arguments.workers,
        transport=arguments.transport,
        grace_s=arguments.grace,
        restarts=arguments.restarts,
    )
    try:
        options.validate()
        console = Console(
            options.role_names(),
            stdout=sys.stdout,
            stderr=sys.stderr,
            log_dir=arguments.log_dir,
        )
    except InvalidArgument as error:
        fail(f"{error}; 'embery run --help' explains")
        return MISUSED
    except OSError as error:
        fail(f"--log-dir {arguments.log_dir}: {error}")
        return FAILED
    with console:
        for restarts in range(options.restarts + 1):
            if _run_once(options, console, restarts):
                return 0
    return FAILED


def _run_once(options: RunOptions, console: Console, restarts: int) -> bool:
    """Run everything; return whether all workers have finished, and say why if not."""
    try:
        with (
            LocalEngine() as engine,
            Supervisor(engine, console, grace_s=options.grace_s) as supervisor,
        ):
            run_cluster(options, supervisor, columns=console.columns, restarts=restarts)
    except RoleFailed as error:
        fail(f"{error}; its last lines:")
        for line in error.tail:
            print(f"    {line}", file=sys.stderr)
        if restarts < options.restarts:
            fail(
                f"all rows are gone with the servers; the job starts again, {restarts + 1} of "
                f"{options.restarts} times, and goes on from its last checkpoint if it has one"
            )
        return False
    return True
