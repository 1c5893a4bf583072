"""What the commands of a cluster share: credentials, where to listen, metrics, when to end."""

from __future__ import annotations

import argparse
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from embery.rpc.address import PORT_MAX, join_address
from embery.rpc.credentials import VARIABLES, Credentials
from embery.validation import require_int

if TYPE_CHECKING:
    from embery.observability.metrics import Shown

_HELP = {
    "token_file": "file with the token that callers must know",
    "tls_cert": "certificate of this side, PEM",
    "tls_key": "its private key, PEM",
    "tls_ca": "certificates of the authorities that the other side's must come from, PEM",
}


def add_credential_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare `--token-file` and `--tls-*`."""
    group = parser.add_argument_group("credentials")
    for field, variable in VARIABLES.items():
        group.add_argument(
            f"--{field.replace('_', '-')}", metavar="FILE", help=f"{_HELP[field]} (or ${variable})"
        )


def credentials_of(arguments: argparse.Namespace) -> Credentials:
    """Return the credentials of a command line; the environment has those it leaves out."""
    given = {field: getattr(arguments, field) for field in VARIABLES}
    return replace(
        Credentials.from_environment(), **{field: path for field, path in given.items() if path}
    )


def add_listen_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare where a role listens."""
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1)"
    )
    parser.add_argument(
        "--port", type=int, default=0, metavar="P", help="port (default: 0, a free one)"
    )
    parser.add_argument(
        "--insecure",
        action="store_true",
        help="serve other machines without credentials, and rows without encryption",
    )
    parser.add_argument(
        "--metrics-port",
        type=int,
        metavar="P",
        help="serve metrics to Prometheus at this port of loopback, or with --insecure of --host "
        "(0: a free one)",
    )


@contextmanager
def metrics(
    arguments: argparse.Namespace, samples: Callable[[], Iterable[Shown]]
) -> Iterator[None]:
    """Serve `samples` within the context, if the command line asks for it."""
    if arguments.metrics_port is None:
        yield
        return
    from embery.observability.metrics import MetricsEndpoint  # noqa: PLC0415  only if asked for

    require_int("--metrics-port", arguments.metrics_port, low=0, high=PORT_MAX)
    # Whoever fetches metrics shows no credentials.
    host = arguments.host if arguments.insecure else "127.0.0.1"
    endpoint = MetricsEndpoint(host, arguments.metrics_port, samples)
    try:
        print(f"metrics at http://{join_address(host, endpoint.port)}/metrics", flush=True)
        yield
    finally:
        endpoint.close()


class UntilSignal:
    """Catches SIGTERM and SIGINT from its making on; `wait` returns when one has come.

    `again` is set by the second one: whoever sent it does not want to wait.
    """

    def __init__(self) -> None:
        self._came, self.again = threading.Event(), threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._take)

    def _take(self, *_: object) -> None:
        (self.again if self._came.is_set() else self._came).set()

    def wait(self, wait_s: float | None = None) -> bool:
        """Wait for a signal, however long or for so long; return whether it came."""
        return self._came.wait(wait_s)
