"""`embery status`: the servers, workers and tables of a cluster."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict
from typing import Any

from embery.cli.command import add_json_argument, print_json
from embery.cli.membership import TIMEOUT_S, add_cluster_arguments, open_cluster
from embery.cli.serving import credentials_of
from embery.errors import EmberyError
from embery.rpc.credentials import Credentials

EXAMPLE = "embery status --store embery://127.0.0.1:7070 --watch"
INTERVAL_S = 2.0
_CLEAR = "\x1b[H\x1b[2J"
# Of the counters of a table, those that add up over servers.
_SUMS = ("rows", "bytes", "admitted", "rejected", "evicted")
_SERVER = ("server", "state", "address", "slots", "copies", "rows", "bytes")
_WORKER = ("client", "state", "rank", "world_size", "batches", "samples_per_s", "staleness")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--watch", action="store_true", help=f"show it again every {INTERVAL_S:g} s, until Ctrl-C"
    )
    add_json_argument(parser)
    add_cluster_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the status, once or again and again."""
    credentials = credentials_of(arguments)
    with open_cluster(arguments) as coordinator:
        _show(gather(coordinator, credentials), arguments)
        while arguments.watch:
            time.sleep(INTERVAL_S)
            _show(gather(coordinator, credentials), arguments)
    return 0


def gather(coordinator: Any, credentials: Credentials | None = None) -> dict[str, Any]:
    """Return what a `CoordinatorClient` and the servers that it names say.

    A server that does not answer has an "error" in the place of its counters.
    """
    from embery.rpc.server_client import ServerClient  # noqa: PLC0415  gRPC is slow to import

    status = coordinator.status()
    names = [table["name"] for table in status.tables]
    totals = {name: dict.fromkeys(_SUMS, 0) for name in names}
    owners, backups = status.routing.owners.tolist(), status.routing.backups.tolist()
    servers = []
    for info in sorted(status.routing.servers.values(), key=lambda info: info.number):
        server = {
            "server": info.number,
            "address": info.address,
            "state": "draining" if info.draining and info.state == "live" else info.state,
            "slots": owners.count(info.number),
            "copies": backups.count(info.number),
        }
        servers.append(server)
        if info.state != "live":
            continue
        client = ServerClient(info.address, credentials, TIMEOUT_S)
        try:
            counters = {name: client.table_stats(name) for name in names}
            server["data"] = client.table_stats("")
        except EmberyError as error:
            server["error"] = str(error)
            continue
        finally:
            client.close()
        for field in ("rows", "bytes"):
            server[field] = sum(own[field] for own in counters.values())
        for name, own in counters.items():
            for field in _SUMS:
                totals[name][field] += own.get(field, 0)
    return {
        "store": coordinator.url,
        "cluster": status.cluster_id,
        "routing_version": status.routing.version,
        "expected_servers": status.expected_servers,
        "wanted_servers": status.wanted_servers,
        "reason": status.reason,
        "servers": servers,
        "workers": [
            {
                "client": w.client,
                "rank": w.rank,
                "world_size": w.world_size,
                "state": w.state,
                "batches": w.progress.batches,
                "samples": w.progress.samples,
                "samples_per_s": round(w.samples_per_s),
                "staleness": w.progress.staleness,
            }
            for w in status.workers
        ],
        "readings": [asdict(reading) for reading in status.readings],
        "tables": [
            {"table": t["name"], "dim": t["dim"], **totals[t["name"]]} for t in status.tables
        ],
    }


def _show(status: dict[str, Any], arguments: argparse.Namespace) -> None:
    if arguments.json:
        print_json(status)
    else:
        if arguments.watch and sys.stdout.isatty():
            print(_CLEAR, end="")
        print(
            f"cluster {status['cluster']} at {status['store']}, routing "
            f"{status['routing_version']}: {status['reason']}"
        )
        _print_rows(status["servers"], _SERVER)
        _print_rows(status["workers"], _WORKER)
        is_open = [reading for reading in status["readings"] if reading["state"] == "open"]
        _print_rows(
            is_open or status["readings"][-1:], ("reading", "state", "pieces", "finished", "held")
        )
        _print_rows(status["tables"], ("table", "dim", *_SUMS))
        for server in status["servers"]:
            if "error" in server:
                print(f"\nserver {server['server']}: {server['error']}")
    sys.stdout.flush()


def _print_rows(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> None:
    """Print a heading and a line a row; numbers to the right."""
    if not rows:
        return
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    print()
    for line in (columns, *cells):
        print("  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else str(value)
