"""`embery serve`: an inference server, which scores raw features with an exported model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from embery.cli.serving import (
    UntilSignal,
    add_credential_arguments,
    add_listen_arguments,
    credentials_of,
    metrics,
)
from embery.errors import Unavailable

if TYPE_CHECKING:
    from embery.serving.role import ServeOptions
    from embery.serving.scorer import Scorer

EXAMPLE = "embery serve models/ctr --port 8000 --grpc-port 8001"

# Option -> type, default, unit and what it is.
_LIMITS: dict[str, tuple[type, float, str, str]] = {
    "--max-batch": (int, 1024, "N", "samples of a request, and scored at once, at most"),
    "--max-delay": (float, 0, "MS", "how long an idle server waits for more to score at once"),
    "--max-queue": (int, 16384, "N", "samples that wait, at most; more are refused"),
    "--max-wait": (float, 10, "SECONDS", "a request that waited for longer is refused"),
    "--max-request-bytes": (int, 16 << 20, "N", "bytes of a request, at most"),
    "--watch": (float, 0.5, "SECONDS", "how often to look for another version; 0: never"),
    "--drain": (
        float,
        25,
        "SECONDS",
        "when asked to end by SIGTERM or Ctrl-C, wait so long at most for requests under way",
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "bundle",
        metavar="BUNDLE",
        help="a bundle, or a folder of bundles: the newest is served, or the one that its file "
        "CURRENT names",
    )
    parser.add_argument(
        "--name", default="", help="of the model in requests (default: that of the folder)"
    )
    add_listen_arguments(parser)
    parser.add_argument(
        "--grpc-port",
        type=int,
        default=0,
        metavar="P",
        help="port of gRPC (default: 0, a free one); --port is that of HTTP",
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        metavar="N",
        help="for the dense part of one batch (default: 1)",
    )
    group = parser.add_argument_group("batches and limits")
    for option, (kind, default, unit, text) in _LIMITS.items():
        group.add_argument(
            option, type=kind, default=default, metavar=unit, help=f"{text} (default: {default})"
        )
    add_credential_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal comes; then end what is under way."""
    ended = UntilSignal()
    try:
        from embery.serving.bundle import Bundle  # noqa: PLC0415  what serving needs is an extra
        from embery.serving.role import InferenceServer  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise Unavailable(f"{error.name} is not installed; pip install 'embery[serving]'") from None

    def load(path: Path) -> Scorer:
        bundle = Bundle.open(path)
        if bundle.manifest.base is not None:
            bundle.verify()  # Of a delta all bytes, which are few.
        return bundle.scorer(threads=arguments.threads)

    with (
        InferenceServer(_options_of(arguments), load) as server,
        metrics(arguments, server.samples),
    ):
        model = f"{server.service.name} version {server.versions.current().version}"
        print(f"serve ready: {model} at {server.url} grpc {server.grpc_address}", flush=True)
        ended.wait()
    return 0


def _options_of(arguments: argparse.Namespace) -> ServeOptions:
    from embery.serving.batching import BatchingOptions  # noqa: PLC0415
    from embery.serving.role import ServeOptions  # noqa: PLC0415

    return ServeOptions(
        arguments.bundle,
        name=arguments.name,
        host=arguments.host,
        port=arguments.port,
        grpc_port=arguments.grpc_port,
        request_bytes_max=arguments.max_request_bytes,
        watch_s=arguments.watch,
        drain_s=arguments.drain,
        insecure=arguments.insecure,
        batching=BatchingOptions(
            batch_max=arguments.max_batch,
            delay_ms=arguments.max_delay,
            queue_max=arguments.max_queue,
            wait_s_max=arguments.max_wait,
        ),
        credentials=credentials_of(arguments),
    )
