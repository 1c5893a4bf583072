"""`embery restore`: put the tables of a checkpoint into a cluster."""

from __future__ import annotations

import argparse
import time

from embery.cli.checkpoint import summary, words
from embery.cli.command import add_json_argument, print_json
from embery.cli.membership import add_cluster_arguments, open_store
from embery.observability.progress import progress

EXAMPLE = """embery restore runs/7 --store embery://127.0.0.1:7070
  embery restore runs/7/checkpoint-00000003 --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "source",
        metavar="SRC",
        help="a checkpoint: a manifest, its folder, or a folder of checkpoints, of which the "
        "newest is taken",
    )
    add_json_argument(parser)
    add_cluster_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Replace all tables by those of the checkpoint, after every byte of it was verified.

    Workers must not train meanwhile: what they have read, and their dense parameters, are of other
    rows. `Trainer.fit(resume=True)` restores all of it.
    """
    from embery.checkpoint import open_unchecked  # noqa: PLC0415  pyarrow is slow to import

    begin_s = time.monotonic()
    chain = open_unchecked(arguments.source).chain()
    total = sum(file.bytes for member in chain for file in member.manifest.files())
    with (
        open_store(arguments) as store,
        progress("restoring", total=2 * total, unit="B") as advance,
    ):
        found = store.restore(arguments.source, progress=advance)
    report = summary(found, time.monotonic() - begin_s)
    print_json(report) if arguments.json else print(f"restored {words(report)}")
    return 0
