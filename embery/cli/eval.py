"""`embery eval`: how good a bundle's scores are on labelled data, from the bundle alone."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from embery.cli.command import add_json_argument, print_fields, print_json
from embery.errors import InvalidArgument
from embery.observability.progress import progress
from embery.validation import require_int

if TYPE_CHECKING:
    from embery.data.reading import BlockDataset
    from embery.data.schema import Schema

EXAMPLE = """embery eval bundles/7 data/test.parquet
  embery eval bundles/7 day_23.tsv --format criteo_tsv --json"""
THREADS_MAX = 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("bundle", metavar="BUNDLE", help="what `embery export` made")
    parser.add_argument(
        "data", metavar="DATA", help="file, folder, glob or URI with the columns of training"
    )
    parser.add_argument(
        "--format",
        choices=("parquet", "criteo_tsv"),
        default="parquet",
        help="of DATA (default: parquet)",
    )
    parser.add_argument(
        "--batch-size", type=int, default=4096, metavar="N", help="rows a batch (default: 4096)"
    )
    parser.add_argument(
        "--threads", type=int, default=1, metavar="N", help="for the dense part (default: 1)"
    )
    parser.add_argument(
        "--verify", action="store_true", help="compare all of the bundle with its checksums first"
    )
    add_json_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Score the data and print the metrics."""
    from embery.serving.bundle import Bundle  # noqa: PLC0415  native code, not for --help
    from embery.worker.metrics import ClickMetrics  # noqa: PLC0415

    require_int("--threads", arguments.threads, low=1, high=THREADS_MAX)
    bundle = Bundle.open(arguments.bundle, verify=arguments.verify)
    manifest = bundle.manifest
    if len(manifest.schema.labels) != 1:
        raise InvalidArgument(
            f"{bundle.path}: has one score and {len(manifest.schema.labels)} labels; metrics need "
            "one of each"
        )
    data = _open(arguments, manifest.schema)
    scorer = bundle.scorer(threads=arguments.threads)
    metrics, rows, began_s = ClickMetrics(outputs=manifest.output.meaning), 0, time.perf_counter()
    with progress("scoring", total=data.num_rows or 0, unit=" rows") as advance:
        for block in data.blocks():
            metrics.update(scorer.score(block), block.label[:, 0])
            rows += len(block)
            advance(len(block))
    report = {
        "bundle": str(bundle.path),
        "model_version": manifest.model_version,
        "rows": rows,
        **metrics.compute(),
        "rows_per_s": rows / (time.perf_counter() - began_s),
    }
    if arguments.json:
        print_json(report)
    else:
        print_fields([(name, f"{v:.6f}" if isinstance(v, float) else str(v))
                      for name, v in report.items()])  # fmt: skip
    return 0


def _open(arguments: argparse.Namespace, schema: Schema) -> BlockDataset:
    from embery.data.criteo import CriteoTSV  # noqa: PLC0415
    from embery.data.parquet import Parquet  # noqa: PLC0415

    if arguments.format == "criteo_tsv":
        return CriteoTSV(arguments.data, batch_size=arguments.batch_size)
    return Parquet(arguments.data, schema=schema, batch_size=arguments.batch_size)
