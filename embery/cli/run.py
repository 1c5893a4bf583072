"""`embery run`: a training script on servers and workers, on this machine or by an engine."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from embery.cli.command import fail
from embery.errors import InvalidArgument
from embery.launch.cluster import ENGINES, RunOptions, run_cluster
from embery.launch.console import Console
from embery.launch.kubernetes import KubernetesOptions, manifests
from embery.launch.local import LocalEngine
from embery.launch.ray import RayEngine
from embery.launch.supervisor import RoleFailed, Supervisor
from embery.rpc.transports import TRANSPORTS

EXAMPLE = """embery run --ps 2 --workers 2 train.py --epochs 3
  embery run --engine ray --ps 2 --workers 2 train.py
  embery run --engine kubernetes --image IMAGE --ps 2 --workers 2 train.py | kubectl apply -f -"""
FAILED, MISUSED = 1, 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    plain = RunOptions(script=())
    parser.add_argument("--ps", type=int, default=plain.servers, metavar="N", help="servers")
    parser.add_argument("--workers", type=int, default=plain.workers, metavar="M", help="workers")
    parser.add_argument(
        "--replicas",
        type=int,
        default=plain.replicas,
        metavar="R",
        help="servers that have each row: with 2, one that fails is replaced, nothing is lost and "
        "training goes on (default: 1)",
    )
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
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default="local",
        help="where roles run: as processes of this machine, as actors of the Ray cluster of "
        "$RAY_ADDRESS (of a Ray that is started here, without it), or as objects of Kubernetes, "
        "which are written and not started (default: local)",
    )
    parser.add_argument(
        "--insecure",
        action="store_true",
        help="with another engine: serve other machines without credentials",
    )
    _add_kubernetes_arguments(parser)
    parser.add_argument(
        "--elastic",
        action="store_true",
        help="let workers come and go: fit goes on without those that fail, embery scale --workers "
        "changes how many there are, and --restarts also says how many that fail are replaced",
    )
    parser.add_argument("script", metavar="train.py", help="the training script")
    parser.add_argument(
        "arguments", nargs=argparse.REMAINDER, metavar="ARGS", help="arguments of the script"
    )


def _add_kubernetes_arguments(parser: argparse.ArgumentParser) -> None:
    plain = KubernetesOptions(image="")
    objects = parser.add_argument_group("--engine kubernetes")
    objects.add_argument("--image", default="", help="has embery and the training script")
    objects.add_argument("--name", default=plain.name, help="of the run (default: %(default)s)")
    objects.add_argument("--namespace", default="", help="(default: that of kubectl)")
    objects.add_argument(
        "--secret",
        default=plain.secret,
        help='Secret whose key "token" all roles must know (default: %(default)s)',
    )
    objects.add_argument(
        "--output", metavar="FILE", help="write there (default: to standard output)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run until every worker has finished, or one role fails."""
    options = RunOptions(
        script=(arguments.script, *arguments.arguments),
        servers=arguments.ps,
        workers=arguments.workers,
        replicas=arguments.replicas,
        transport=arguments.transport,
        grace_s=arguments.grace,
        restarts=arguments.restarts,
        insecure=arguments.insecure,
        elastic=arguments.elastic,
    )
    try:
        if arguments.engine == "kubernetes":
            return _write_manifests(options, arguments)
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
        fail(f"{error.filename}: {error.strerror}")
        return FAILED
    with console:
        for restarts in range(options.restarts + 1):
            if _run_once(options, arguments.engine, console, restarts):
                return 0
    return FAILED


def _write_manifests(options: RunOptions, arguments: argparse.Namespace) -> int:
    """Write the objects of the run, for kubectl."""
    where = KubernetesOptions(
        image=arguments.image,
        name=arguments.name,
        namespace=arguments.namespace,
        secret="" if arguments.insecure else arguments.secret,
    )
    where.validate()
    # The script is looked for where it runs: in the image.
    options.validate(here=False)
    text = json.dumps(manifests(options, where), indent=2) + "\n"
    if arguments.output is None:
        sys.stdout.write(text)
    else:
        Path(arguments.output).write_text(text, encoding="utf-8")
    return 0


def _engine(name: str, options: RunOptions) -> LocalEngine | RayEngine:
    return RayEngine(len(options.role_names())) if name == "ray" else LocalEngine()


def _run_once(options: RunOptions, engine_name: str, console: Console, restarts: int) -> bool:
    """Run everything; return whether all workers have finished, and say why if not."""
    try:
        with (
            _engine(engine_name, options) as engine,
            Supervisor(engine, console, grace_s=options.grace_s) as supervisor,
        ):
            run_cluster(options, engine, supervisor, columns=console.columns, restarts=restarts)
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
