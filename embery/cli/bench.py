"""`embery bench`: how fast this machine pulls and pushes rows, of a cluster or in this process.

It measures through `Store`, as a training script would: one caller, one call at a time. Of a
cluster it can measure every transport, and pulls also while other processes push without pause.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from embery.cli.command import add_json_argument, print_json
from embery.cli.serving import add_credential_arguments, credentials_of
from embery.errors import Unavailable
from embery.observability.progress import progress
from embery.rpc.address import SCHEME
from embery.rpc.credentials import VARIABLES
from embery.rpc.transports import TRANSPORTS
from embery.validation import require_int, require_range

if TYPE_CHECKING:
    from embery.store import Store
    from embery.table import Table

EXAMPLE = """embery bench --rows 1000000 --dim 64
  embery bench --store embery://10.0.0.1:7070 --transport all --pushers 1 --json"""
CALL_ROWS = (1, 100, 10_000, 100_000)
# Key sets that take turns, so that no cache holds the rows of the last call for the next.
KEY_SETS = 8
CALLS_MAX = 1_000_000
FILL_ROWS = 100_000
TTL_DAYS = 1.0
SECONDS_OF_A_DAY = 86_400
PUSHERS_MAX = 256
STOP_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Rate:
    """What calls of one kind and size took.

    Attributes:
        call: "pull" or "push".
        transport: by which the rows travelled; "embedded" in this process.
        pushers: processes that pushed meanwhile without pause.
        rows: of a call, drawn evenly from the table; a row may be drawn more than once.
        p50_ms, p99_ms: milliseconds of a call in the median, and of the slowest in a hundred.
    """

    transport: str
    pushers: int
    call: str
    rows: int
    calls: int
    rows_per_s: float
    p50_ms: float
    p99_ms: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--store", metavar="URL", help='"embedded:", or a coordinator (default: $EMBERY_STORE)'
    )
    parser.add_argument(
        "--transport",
        choices=(*TRANSPORTS, "all"),
        default="auto",
        help="of a cluster: how rows travel; all: each that can be had (default: auto, the best)",
    )
    parser.add_argument(
        "--pushers",
        type=int,
        default=0,
        metavar="N",
        help="of a cluster: measure pulls once more while so many processes push without pause",
    )
    parser.add_argument(
        "--rows", type=int, default=1_000_000, metavar="N", help="of the table (default: 1000000)"
    )
    parser.add_argument("--dim", type=int, default=64, metavar="D", help="of a row (default: 64)")
    parser.add_argument(
        "--seconds",
        type=float,
        default=2.0,
        metavar="S",
        help="for each kind and size of call (default: 2)",
    )
    add_json_argument(parser)
    add_credential_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Measure, and print the figures."""
    from embery.store import URL_VARIABLE  # noqa: PLC0415  as in _open

    url = arguments.store or os.environ.get(URL_VARIABLE) or "embedded:"
    require_int("--rows", arguments.rows, low=1, high=2**40)
    require_range("--seconds", arguments.seconds, low=0.01, high=3600)
    high = PUSHERS_MAX if url.startswith(SCHEME) else 0
    require_int(f"--pushers of {url}", arguments.pushers, low=0, high=high)
    every = url.startswith(SCHEME) and arguments.transport == "all"
    rates: list[Rate] = []
    servers, missing = 0, {}
    for transport in TRANSPORTS[1:] if every else (arguments.transport,):
        try:
            servers = _measure_over(url, transport, arguments, rates)
        except Unavailable as error:
            if not every:
                raise
            missing[transport] = str(error)
    report = {
        "store": url,
        "servers": servers,
        "transports": sorted({rate.transport for rate in rates}) if servers else [],
        "missing": missing,
        "processors": len(os.sched_getaffinity(0)),
        "table_rows": arguments.rows,
        "dim": arguments.dim,
        "rates": [asdict(rate) for rate in rates],
    }
    print_json(report) if arguments.json else _print(report, rates)
    return 0 if rates else 1


def _measure_over(
    url: str, transport: str, arguments: argparse.Namespace, rates: list[Rate]
) -> int:
    """Append what is measured over one transport; return how many servers there are."""
    with _open(url, transport, arguments) as (store, table):
        _fill(store, table, arguments.rows)
        of_cluster = url.startswith(SCHEME)
        servers = store.stats()["servers"].values() if of_cluster else ()
        names = sorted({server["transport"] for server in servers})
        transport = "+".join(names) or "embedded"
        rates += _measure(store, table, arguments, transport)
        if arguments.pushers:
            with _pushing(store, table, names[0], arguments):
                rates += _measure(store, table, arguments, transport, arguments.pushers)
    return len(servers)


@contextmanager
def _pushing(
    store: Store, table: Table, transport: str, arguments: argparse.Namespace
) -> Iterator[None]:
    """Let other processes push to all of the table without pause."""
    credentials = asdict(credentials_of(arguments))
    given = {VARIABLES[field]: path for field, path in credentials.items() if path}
    command = (sys.executable, "-m", "embery.cli.load", store.url, transport, table.name)
    with ExitStack() as stack:
        pushers = [
            stack.enter_context(
                subprocess.Popen(
                    [*command, str(arguments.rows)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env={**os.environ, **given},
                )
            )
            for _ in range(arguments.pushers)
        ]
        # What is left by an error here must not push on.
        for pusher in pushers:
            stack.callback(pusher.kill)
        for pusher in pushers:
            assert pusher.stdout is not None
            if not pusher.stdout.readline():
                raise Unavailable(f"a pusher ended with {pusher.wait(STOP_TIMEOUT_S)}; see above")
        yield
        for pusher in pushers:
            if pusher.poll() is not None:
                raise Unavailable(f"a pusher ended with {pusher.returncode} meanwhile; see above")
            pusher.communicate(timeout=STOP_TIMEOUT_S)


class _Clock:
    """This machine's, which may be put forward."""

    ahead_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


@contextmanager
def _open(url: str, transport: str, arguments: argparse.Namespace) -> Iterator[tuple[Store, Table]]:
    """Yield a store with the table of this benchmark; afterwards its rows are gone."""
    from embery import optim  # noqa: PLC0415  native code, not needed for --help
    from embery.store import connect  # noqa: PLC0415
    from embery.table import TTL, Table  # noqa: PLC0415

    clock = _Clock()
    options: dict[str, Any] = {"clock": clock}
    if url.startswith(SCHEME):
        options |= {"transport": transport, "credentials": credentials_of(arguments)}
    table = Table(
        f"embery bench {arguments.dim}",
        dim=arguments.dim,
        optimizer=optim.RowwiseAdagrad(lr=0.01),
        eviction=TTL(days=TTL_DAYS),
    )
    with connect(url, **options) as store:
        store.create_table(table)
        try:
            yield store, table
        finally:
            # There is no other way to be rid of rows than that their time is over.
            clock.ahead_s = (TTL_DAYS + 1) * SECONDS_OF_A_DAY
            store.evict(table.name)


def _fill(store: Store, table: Table, rows: int) -> None:
    with progress("filling the table", total=rows, unit=" rows") as advance:
        for begin in range(0, rows, FILL_ROWS):
            keys = np.arange(begin, min(begin + FILL_ROWS, rows), dtype=np.uint64)
            store.pull(table.name, keys)
            advance(len(keys))


def _measure(
    store: Store,
    table: Table,
    arguments: argparse.Namespace,
    transport: str,
    pushers: int = 0,
) -> Iterator[Rate]:
    """Measure calls of all sizes; pulls alone while there are pushers."""
    generator = np.random.default_rng(0)
    kinds = ("pull",) if pushers else ("pull", "push")
    what = f"measuring {transport}" + (" under load" if pushers else "")
    with progress(what, total=len(kinds) * len(CALL_ROWS), unit=" kinds of call") as advance:
        for rows in CALL_ROWS:
            keys = generator.integers(0, arguments.rows, (KEY_SETS, rows), dtype=np.uint64)
            out = np.empty((rows, table.dim), np.float32)
            grads = np.full((rows, table.dim), 1e-3, np.float32)
            calls: dict[str, Callable[[Any], Any]] = {
                "pull": partial(store.pull, table.name, out=out),
                "push": partial(store.push, table.name, grads=grads),
            }
            for name in kinds:
                took_s = _times_of(calls[name], keys, arguments.seconds)
                p50_s, p99_s = np.percentile(took_s, (50, 99))
                yield Rate(
                    transport=transport,
                    pushers=pushers,
                    call=name,
                    rows=rows,
                    calls=len(took_s),
                    rows_per_s=rows * len(took_s) / sum(took_s),
                    p50_ms=float(p50_s) * 1e3,
                    p99_ms=float(p99_s) * 1e3,
                )
                advance(1)


def _times_of(call: Callable[[Any], Any], key_sets: Any, seconds: float) -> list[float]:
    """Return the seconds of each of as many calls as there is time for, after one of each set."""
    for keys in key_sets:
        call(keys)
    took_s: list[float] = []
    end_s = time.perf_counter() + seconds
    while len(took_s) < CALLS_MAX:
        begin_s = time.perf_counter()
        if begin_s >= end_s and took_s:
            break
        call(key_sets[len(took_s) % KEY_SETS])
        took_s.append(time.perf_counter() - begin_s)
    return took_s


def _print(report: dict[str, Any], rates: list[Rate]) -> None:
    where = report["store"]
    if report["servers"]:
        where += f", {report['servers']} servers"
    print(
        f"{where}; {report['table_rows']:,} rows of dim {report['dim']}; "
        f"{report['processors']} processors here"
    )
    for transport, reason in report["missing"].items():
        print(f"{transport} is left out: {reason}")
    print(
        f"\n{'transport':>9}  {'pushers':>7}  {'call':>4}  {'rows':>7}  {'calls':>7}  "
        f"{'rows/s':>12}  {'p50 ms':>9}  {'p99 ms':>9}"
    )
    for rate in rates:
        print(
            f"{rate.transport:>9}  {rate.pushers:>7}  {rate.call:>4}  {rate.rows:>7,}  "
            f"{rate.calls:>7,}  {rate.rows_per_s:>12,.0f}  {rate.p50_ms:>9.3f}  {rate.p99_ms:>9.3f}"
        )
