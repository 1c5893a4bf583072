"""`embery export`: from a checkpoint to what can be served, or read by any engine."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embery.cli.command import add_json_argument, print_fields, print_json
from embery.cli.serving import UntilSignal
from embery.errors import EmberyError, InvalidArgument
from embery.table import DTYPES
from embery.validation import require_range

if TYPE_CHECKING:
    from embery.serving.bundle import Bundle
    from embery.serving.export import ExportOptions, Servable
    from embery.serving.follow import ExportOne

log = logging.getLogger(__name__)

EXAMPLE = """embery export runs/7 bundles/7 --model examples/ctr/train.py:servable \\
      --model-args examples/ctr/configs/frappe_dnn.json data/frappe_x1
  embery export runs/7 models/ctr --model train.py:servable --follow 5
  embery export runs/7 rows --format parquet"""
FORMATS = ("bundle", "parquet")
SECONDS_OF_A_DAY = 86_400


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help="a manifest, its folder, or a folder of checkpoints, of which the newest is taken",
    )
    parser.add_argument("dest", metavar="DEST", help="folder to make; it must not exist")
    parser.add_argument("--format", choices=FORMATS, default="bundle", help="(default: bundle)")
    parser.add_argument(
        "--model",
        metavar="MODULE:FUNCTION",
        help="what returns the model and its data, an embery.serving.export.Servable; MODULE is "
        "a name or a file ending in .py. Needed but for parquet",
    )
    parser.add_argument(
        "--model-args", nargs="*", default=[], metavar="ARG", help="strings to call FUNCTION with"
    )
    parser.add_argument(
        "--dtype", choices=DTYPES, help="storage type of all rows (default: that of each table)"
    )
    parser.add_argument(
        "--min-count", type=int, default=0, metavar="N", help="leave out rows updated less often"
    )
    parser.add_argument(
        "--max-age", type=float, metavar="DAYS", help="leave out rows not touched for longer"
    )
    parser.add_argument(
        "--model-version", type=int, metavar="N", help="(default: the checkpoint's number)"
    )
    parser.add_argument(
        "--list-length-max",
        type=int,
        default=1024,
        metavar="N",
        help="keys of a list in a request, where the schema has no limit (default: 1024)",
    )
    parser.add_argument(
        "--meaning",
        choices=("logits", "probabilities"),
        default="logits",
        help="what the model returns (default: logits)",
    )
    parser.add_argument(
        "--base",
        metavar="BUNDLE",
        help="a bundle beside DEST: write only the rows in which the checkpoint differs from it",
    )
    parser.add_argument(
        "--follow",
        type=float,
        metavar="SECONDS",
        help="look this often for a new checkpoint, until a signal comes: DEST is a folder of "
        "bundles, in which each has a number; most of them hold what changed, some are whole",
    )
    add_json_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Export, and print what was made."""
    if arguments.follow is not None:
        return _follow(arguments)
    report = _export_rows(arguments) if arguments.format == "parquet" else _export(arguments)
    if arguments.json:
        print_json(report)
    else:
        print_fields([(name, f"{v:,}" if isinstance(v, int) else str(v))
                      for name, v in report.items()])  # fmt: skip
    return 0


def _export(arguments: argparse.Namespace) -> dict[str, Any]:
    base = None if arguments.base is None else Path(arguments.base)
    bundle = _exporter(arguments)(Path(arguments.checkpoint), Path(arguments.dest), base)
    return _report(bundle)


def _report(bundle: Bundle) -> dict[str, Any]:
    manifest = bundle.manifest
    return {
        "bundle": str(bundle.path),
        "model version": manifest.model_version,
        "checkpoint": manifest.checkpoint_number,
        "base": "none" if manifest.base is None else manifest.base.folder,
        "tables": len(manifest.tables),
        "rows": sum(table.rows for table in manifest.tables),
        "bytes": sum(file.bytes for file in manifest.files()),
    }


def _exporter(arguments: argparse.Namespace) -> ExportOne:
    """Return what exports a checkpoint of the model that the command line names."""
    if arguments.model is None:
        raise InvalidArgument(
            "--model is needed: a checkpoint holds the numbers of the dense part, not its code; "
            "name a function that returns the model, such as train.py:servable"
        )
    from embery.serving.export import export  # noqa: PLC0415  imports torch

    # What it says of operators that no model here has would be all that a user sees.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    servable = _servable(arguments.model, arguments.model_args)
    example = next(servable.data.batches())

    def export_one(checkpoint: Path, dest: Path, base: Path | None) -> Bundle:
        return export(
            servable.model,
            checkpoint,
            dest,
            example=example,
            schema=servable.data.schema,
            options=_options(arguments),
            base=base,
        )

    return export_one


def _follow(arguments: argparse.Namespace) -> int:
    """Export every new checkpoint until a signal comes; one that fails is reported and left."""
    for option in ("base", "model_version"):
        if getattr(arguments, option) is not None:
            raise InvalidArgument(
                f"--{option.replace('_', '-')} does not go with --follow, which chooses it itself"
            )
    if arguments.format != "bundle":
        raise InvalidArgument("--follow makes bundles only")
    require_range("--follow", arguments.follow, low=0, low_open=True)
    from embery.serving.follow import Follower  # noqa: PLC0415  native code

    follower = Follower(Path(arguments.checkpoint), Path(arguments.dest), _exporter(arguments))
    ended = UntilSignal()
    print(f"export ready: follows {arguments.checkpoint}", flush=True)
    while not ended.wait(arguments.follow):
        try:
            made = follower.step()
        except EmberyError as error:
            log.warning("a checkpoint was not exported: %s", error)
            continue
        if made is not None:
            report = _report(made)
            print(f"made {report['bundle']}: {report['rows']} rows", flush=True)
    return 0


def _options(arguments: argparse.Namespace) -> ExportOptions:
    from embery.serving.export import ExportOptions  # noqa: PLC0415

    return ExportOptions(
        dtype=arguments.dtype,
        min_count=arguments.min_count,
        max_age_s=_max_age_s(arguments),
        model_version=arguments.model_version,
        list_length_max=arguments.list_length_max,
        meaning=arguments.meaning,
    )


def _max_age_s(arguments: argparse.Namespace) -> int | None:
    return None if arguments.max_age is None else round(arguments.max_age * SECONDS_OF_A_DAY)


def _export_rows(arguments: argparse.Namespace) -> dict[str, Any]:
    from embery.serving.manifest import Filters  # noqa: PLC0415
    from embery.serving.parquet import export_parquet  # noqa: PLC0415  native code

    filters = Filters(arguments.min_count, _max_age_s(arguments))
    return export_parquet(arguments.checkpoint, arguments.dest, filters=filters)


def _servable(path: str, words: list[str]) -> Servable:
    """Return what the function `path`, MODULE:FUNCTION, makes of `words`."""
    from embery.serving.export import Servable  # noqa: PLC0415

    module, _, function = path.rpartition(":")
    make = getattr(_module(module, path), function, None)
    if not callable(make):
        raise InvalidArgument(f"--model {path}: {module} has no function {function!r}")
    servable = make(*words)
    if not isinstance(servable, Servable):
        raise InvalidArgument(
            f"--model {path}: expected it to return an embery.serving.export.Servable, got "
            f"{type(servable).__name__}"
        )
    return servable


def _module(name: str, path: str) -> Any:
    if not name:
        raise InvalidArgument(f"--model must be MODULE:FUNCTION, got {path!r}")
    file = Path(name) if name.endswith(".py") else None
    # As for a script: what lies beside the model can be imported.
    sys.path.insert(0, str(file.parent.absolute()) if file else str(Path.cwd()))
    try:
        if file is None:
            return importlib.import_module(name)
        spec = importlib.util.spec_from_file_location(file.stem, file)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[file.stem] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except (ImportError, OSError) as error:
        raise InvalidArgument(f"--model {path}: cannot import {name}: {error}") from error
    return module
