"""`embery bench`: how fast this machine pulls and pushes rows, of a cluster or in this process.

It measures through `Store`, as a training script would: one caller, one call at a time.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from embery.cli.command import add_json_argument, print_json
from embery.cli.serving import add_credential_arguments, credentials_of
from embery.observability.progress import progress
from embery.rpc.address import SCHEME
from embery.validation import require_int, require_range

if TYPE_CHECKING:
    from embery.store import Store
    from embery.table import Table

EXAMPLE = """embery bench --rows 1000000 --dim 64
  embery bench --store embery://10.0.0.1:7070 --transport tcp --seconds 5 --json"""
CALL_ROWS = (1, 100, 10_000, 100_000)
# Key sets that take turns, so that no cache holds the rows of the last call for the next.
KEY_SETS = 8
CALLS_MAX = 1_000_000
FILL_ROWS = 100_000
TTL_DAYS = 1.0
SECONDS_OF_A_DAY = 86_400


@dataclass(frozen=True, slots=True)
class Rate:
    """What calls of one kind and size took.

    Attributes:
        call: "pull" or "push".
        rows: of a call, drawn evenly from the table; a row may be drawn more than once.
        p50_ms, p99_ms: milliseconds of a call in the median, and of the slowest in a hundred.
    """

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
        "--transport", metavar="X", help="of a cluster: how rows travel (default: the best)"
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
    require_int("--rows", arguments.rows, low=1, high=2**40)
    require_range("--seconds", arguments.seconds, low=0.01, high=3600)
    with _open(arguments) as (store, table):
        _fill(store, table, arguments.rows)
        servers = store.stats()["servers"].values() if store.url.startswith(SCHEME) else ()
        rates = list(_measure(store, table, arguments))
    report = {
        "store": store.url,
        "transports": sorted({server["transport"] for server in servers}),
        "servers": len(servers),
        "processors": len(os.sched_getaffinity(0)),
        "table_rows": arguments.rows,
        "dim": arguments.dim,
        "rates": [asdict(rate) for rate in rates],
    }
    print_json(report) if arguments.json else _print(report, rates)
    return 0


class _Clock:
    """This machine's, which may be put forward."""

    ahead_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


@contextmanager
def _open(arguments: argparse.Namespace) -> Iterator[tuple[Store, Table]]:
    """Yield a store with the table of this benchmark; afterwards its rows are gone."""
    from embery import optim  # noqa: PLC0415  native code, not needed for --help
    from embery.store import URL_VARIABLE, connect  # noqa: PLC0415
    from embery.table import TTL, Table  # noqa: PLC0415

    url = arguments.store or os.environ.get(URL_VARIABLE) or "embedded:"
    clock = _Clock()
    options: dict[str, Any] = {"clock": clock}
    if url.startswith(SCHEME):
        options |= {"transport": arguments.transport, "credentials": credentials_of(arguments)}
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


def _measure(store: Store, table: Table, arguments: argparse.Namespace) -> Iterator[Rate]:
    generator = np.random.default_rng(0)
    total = 2 * len(CALL_ROWS)
    with progress("measuring", total=total, unit=" kinds of call") as advance:
        for rows in CALL_ROWS:
            keys = generator.integers(0, arguments.rows, (KEY_SETS, rows), dtype=np.uint64)
            out = np.empty((rows, table.dim), np.float32)
            grads = np.full((rows, table.dim), 1e-3, np.float32)
            calls: dict[str, Callable[[Any], Any]] = {
                "pull": partial(store.pull, table.name, out=out),
                "push": partial(store.push, table.name, grads=grads),
            }
            for name, call in calls.items():
                took_s = _times_of(call, keys, arguments.seconds)
                p50_s, p99_s = np.percentile(took_s, (50, 99))
                yield Rate(
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
        where += f", {report['servers']} servers by {', '.join(report['transports'])}"
    print(
        f"{where}; {report['table_rows']:,} rows of dim {report['dim']}; "
        f"{report['processors']} processors here\n"
    )
    print(f"{'call':>4}  {'rows':>7}  {'calls':>7}  {'rows/s':>12}  {'p50 ms':>9}  {'p99 ms':>9}")
    for rate in rates:
        print(
            f"{rate.call:>4}  {rate.rows:>7,}  {rate.calls:>7,}  {rate.rows_per_s:>12,.0f}  "
            f"{rate.p50_ms:>9.3f}  {rate.p99_ms:>9.3f}"
        )
