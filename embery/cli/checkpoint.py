"""`embery checkpoint`: save the tables of a cluster, while it trains."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

from embery.cli.command import add_json_argument, print_json
from embery.cli.membership import add_cluster_arguments, open_store
from embery.observability.progress import progress

if TYPE_CHECKING:
    from embery.checkpoint import Checkpoint
    from embery.store import Store

EXAMPLE = """embery checkpoint runs/7 --store embery://127.0.0.1:7070
  embery checkpoint s3://bucket/runs/7 --delta --keep 3"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "dest", metavar="DEST", help="folder or URI of checkpoints, to which one is added"
    )
    parser.add_argument(
        "--delta", action="store_true", help="save only what changed since the last one there"
    )
    parser.add_argument(
        "--keep", type=int, metavar="N", help="leave the newest N there, and what they build on"
    )
    add_json_argument(parser)
    add_cluster_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Save all tables; pulls and pushes go on.

    What only workers have, such as dense parameters, is in the checkpoints of `Trainer.fit`.
    """
    from embery.checkpoint import open_unchecked  # noqa: PLC0415  pyarrow is slow to import

    begin_s = time.monotonic()
    with open_store(arguments) as store:
        total = _bytes_of(store)
        with progress("saving", total=total, unit="B") as advance:
            path = store.checkpoint(
                arguments.dest, delta=arguments.delta, keep=arguments.keep, progress=advance
            )
    report = summary(open_unchecked(path), time.monotonic() - begin_s)
    print_json(report) if arguments.json else print(f"saved {words(report)}")
    return 0


def summary(found: Checkpoint, seconds: float) -> dict[str, Any]:
    """Return what there is to say of a checkpoint that was saved or restored; bytes are its own."""
    manifest = found.manifest
    return {
        "checkpoint": found.path,
        "kind": manifest.kind,
        "base": manifest.base,
        "tables": {entry.name: entry.rows for entry in manifest.tables},
        "bytes": sum(file.bytes for file in manifest.files()),
        "seconds": round(seconds, 3),
    }


def words(report: dict[str, Any]) -> str:
    """Return a summary in a line."""
    rows = sum(report["tables"].values())
    what = "" if report["base"] is None else f", a delta of number {report['base']}"
    return (
        f"{report['checkpoint']}{what}: {rows:,} rows of {len(report['tables'])} tables, "
        f"{report['bytes'] / 1e6:,.1f} MB in {report['seconds']:.1f} s"
    )


def _bytes_of(store: Store) -> int:
    """Return about how many bytes all rows are in files."""
    from embery.checkpoint.columns import RowLayout, value_bytes  # noqa: PLC0415  as above

    counters = store.stats()["tables"]
    total = 0
    for name, table in store.tables().items():
        floats = table.optimizer.state_floats(table.dim)
        layout = RowLayout.of(table.to_dict(), value_bytes(table.dtype, table.dim), floats)
        total += int(counters.get(name, {}).get("rows", 0)) * layout.row_bytes
    return total
