"""From a checkpoint to a bundle: tables, dense part, and a proof that both score as in training.

    from embery.serving.export import export

    export(model, "runs/7", "bundles/7", example=next(iter(data)), schema=data.schema)

Rows stream from the checkpoint, so that memory does not grow with the tables. `model` brings the
code of the dense part, which a checkpoint does not hold; its numbers come from the checkpoint.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import embery as em
from embery import checkpoint as checkpoints
from embery import dense_state
from embery.checkpoint import Checkpoint
from embery.data.block import Bags, Block, concatenate
from embery.data.dataset import batch_of
from embery.data.schema import Schema, SparseList
from embery.errors import InvalidArgument, SchemaMismatch, Unavailable
from embery.observability.progress import progress
from embery.serving import manifest as manifests
from embery.serving.bundle import TOLERANCE, Bundle, BundleScorer, difference
from embery.serving.changes import ChangedRows
from embery.serving.embeddings import Embeddings
from embery.serving.examples import Examples, features_of
from embery.serving.folder import appearing_folder, sync, write_file
from embery.serving.lookup import BundleTable
from embery.serving.manifest import Base, Filters, Manifest, TableEntry
from embery.serving.requests import LIST_LENGTH_MAX, RequestReader
from embery.serving.rows import TableRows, Watch, WatchedRows
from embery.serving.scorer import Output
from embery.serving.table_file import entry_of, write_table
from embery.serving.tower import as_scores, collections_of, embedding_modules, export_tower
from embery.table import DTYPES, Encoding
from embery.validation import require_int

EXAMPLES_MAX = 16
VERSION_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Servable:
    """A model and the data that it scores: what `embery export --model` asks a function for.

    Args:
        model: as trained; see `export`.
        data: of which the first samples become the example requests.
    """

    model: nn.Module
    data: em.data.Dataset


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What goes into a bundle.

    Args:
        dtype: storage type of all tables; None keeps that of each. Scores then differ by what the
            rounding of rows takes, and are compared with those of the rounded rows.
        min_count: leave out rows with fewer updates.
        max_age_s: leave out rows that were not touched for longer, in seconds before now.
        model_version: of the bundle, >= 1; None takes the checkpoint's number.
        list_length_max: keys of a list in a request, where the schema names no limit.
        output: name of the score.
        meaning: "logits" or "probabilities": what the model returns.
    """

    _: KW_ONLY
    dtype: Encoding | None = None
    min_count: int = 0
    max_age_s: int | None = None
    model_version: int | None = None
    list_length_max: int = LIST_LENGTH_MAX
    output: str = "score"
    meaning: Literal["logits", "probabilities"] = "logits"

    def validate(self) -> None:
        """Raise `InvalidArgument` naming the first field that is wrong."""
        if self.dtype is not None and self.dtype not in DTYPES:
            raise InvalidArgument(f"dtype must be one of {DTYPES} or None, got {self.dtype!r}")
        require_int("min_count", self.min_count, low=0, high=2**32 - 1)
        if self.max_age_s is not None:
            require_int("max_age_s", self.max_age_s, low=0, high=2**32 - 1)
        if self.model_version is not None:
            require_int("model_version", self.model_version, low=1, high=VERSION_MAX)
        require_int("list_length_max", self.list_length_max, low=1, high=2**31 - 1)
        if not self.output.isidentifier():
            raise InvalidArgument(f"output must be a name, got {self.output!r}")
        if self.meaning not in ("logits", "probabilities"):
            raise InvalidArgument(
                f"meaning must be 'logits' or 'probabilities', got {self.meaning!r}"
            )

    @property
    def filters(self) -> Filters:
        """Return which rows to leave out."""
        return Filters(self.min_count, self.max_age_s)


def export(
    model: nn.Module,
    checkpoint: str | os.PathLike[str],
    dest: str | os.PathLike[str],
    *,
    example: em.data.Batch,
    schema: Schema,
    options: ExportOptions | None = None,
    base: str | os.PathLike[str] | None = None,
) -> Bundle:
    """Write a bundle; return it, open.

    Args:
        model: as trained, with at least one em.EmbeddingBagCollection or em.EmbeddingCollection,
            called with an `em.data.Batch` and returning one score a sample. Its parameters are
            those of the checkpoint, if a trainer saved it, else its own; it is left as it was.
        checkpoint: a manifest, its folder, or a folder of checkpoints: its newest one.
        dest: folder to make; there is nothing of this name yet. It appears whole or not at all.
        example: a batch of `schema`; its first samples become the example requests.
        schema: of the training data.
        options: what goes in; None takes the defaults.
        base: a bundle beside `dest` that is no delta. The new one is then a delta: it holds only
            the rows in which it differs, and needs the base to be read.

    Raises:
        InvalidArgument: an argument is wrong, or the model cannot be cut off at its embeddings.
        SchemaMismatch: the checkpoint is of another model.
        CheckpointCorrupt: the checkpoint is damaged.
        ResourceExhausted: the disk is full.
        Unavailable: the file system failed, or what the dense part needs is not installed.
    """
    options = ExportOptions() if options is None else options
    options.validate()
    found = checkpoints.open_unchecked(checkpoint)
    _require_tables(model, found)
    # Through a request and back, so that the model and the bundle see the very same numbers.
    features = features_of(_block_of(example, schema), schema)
    block = RequestReader(schema, list_length_max=options.list_length_max).read(features)
    below = None if base is None else _open_base(Path(base), Path(dest))
    with appearing_folder(Path(dest)) as folder, _as_saved(model, found):
        _write(folder, _Job(model, found, schema, options, below), block)
    return Bundle.open(dest)


def _open_base(base: Path, dest: Path) -> Bundle:
    """Open what a delta is laid over; raise `InvalidArgument` if it cannot be."""
    if base.absolute().parent != dest.absolute().parent:
        raise InvalidArgument(
            f"the base {base} must lie beside {dest}, so that a delta and it are moved together"
        )
    below = Bundle.open(base)
    if below.manifest.base is not None:
        raise InvalidArgument(
            f"the base {base} is a delta itself; name its own, {below.manifest.base.folder}"
        )
    return below


@dataclass(frozen=True, slots=True)
class _Job:
    model: nn.Module
    found: Checkpoint
    schema: Schema
    options: ExportOptions
    base: Bundle | None

    def base_entry(self) -> Base | None:
        """Return how the manifest names the base."""
        if self.base is None:
            return None
        manifest = entry_of(self.base.path / manifests.MANIFEST)
        return Base(self.base.path.name, manifest.sha256)


def _write(folder: Path, job: _Job, block: Block) -> None:
    """Write everything of a bundle, having compared its scores with the model's."""
    model, schema, options = job.model, job.schema, job.options
    batch = _batch_of(block, schema)
    below = {} if job.base is None else job.base.tables()
    entries, watches = _write_tables(folder, job, batch, below)
    scores = _scores_of(model, batch, WatchedRows(watches))
    collections = collections_of(model)
    tables = {
        entry.name: BundleTable(str(folder / entry.file.name), entry, below.get(entry.name))
        for entry in entries
    }
    feeds = Embeddings(schema, collections, tables).feeds(block)
    program = export_tower(model, feeds)
    for node in program.graph.nodes:
        # Where in the source a step comes from: paths of this machine, of no use to any other.
        node.meta.pop("stack_trace", None)
    _require_same(program.module()(*map(torch.from_numpy, feeds.values())), scores, "program")
    _save_program(program, folder, feeds, options.output)
    examples = Examples(features_of(block, schema), scores)
    write_file(folder / manifests.EXAMPLES, examples.encode())
    program_file, onnx_file, examples_file = (
        entry_of(folder / name) for name in (manifests.PROGRAM, manifests.ONNX, manifests.EXAMPLES)
    )
    manifest = Manifest(
        model_version=options.model_version or job.found.number,
        checkpoint_number=job.found.number,
        base=job.base_entry(),
        created_at_s=int(time.time()),
        writer=f"embery {em.__version__}",
        schema=schema,
        list_length_max=options.list_length_max,
        filters=options.filters,
        tables=entries,
        collections=collections,
        output=Output(options.output, options.meaning),
        program=program_file,
        onnx=onnx_file,
        examples=examples_file,
    )
    write_file(folder / manifests.MANIFEST, manifests.encode(manifest))
    scorer = BundleScorer(Bundle.open(folder), threads=1)
    _require_same(scorer.score(scorer.read(examples.features)), scores, "ONNX model")


def _write_tables(
    folder: Path, job: _Job, batch: em.data.Batch, below: Mapping[str, BundleTable]
) -> tuple[tuple[TableEntry, ...], dict[str, Watch]]:
    """Write the tables; return what they are, and the rows that `batch` reads."""
    found, options = job.found, job.options
    wanted = _wanted_keys(job.model, batch)
    entries, watches, now_s = [], {}, int(time.time())
    for number, name in enumerate(sorted(wanted)):
        base = below.get(name)
        dtype = options.dtype or (None if base is None else cast(Encoding, base.dtype))
        whole = TableRows(found, name, dtype, options.filters, now_s)
        rows = whole if base is None else ChangedRows(whole, base)
        layout = rows.layout()
        watch = watches[name] = Watch(wanted[name], layout.dtype, layout.dim)
        with progress(f"table {name}", total=2 * found.tables[name].rows, unit=" rows") as advance:
            path = folder / manifests.table_file(number)
            file = write_table(path, layout, partial(rows.passes, watch, advance))
        entries.append(TableEntry(name, layout.dtype, layout.dim, layout.rows, file))
    return tuple(entries), watches


def _wanted_keys(model: nn.Module, batch: em.data.Batch) -> dict[str, NDArray[np.uint64]]:
    """Return the distinct keys that `batch` reads of each table, ascending."""
    keys: dict[str, list[NDArray[np.uint64]]] = {}
    for module in embedding_modules(model):
        plan = module.plan(batch.sparse)
        for name, of_table in zip(module.table_names, plan.keys, strict=True):
            keys.setdefault(name, []).append(of_table)
    return {name: np.unique(np.concatenate(parts)) for name, parts in keys.items()}


def _scores_of(model: nn.Module, batch: em.data.Batch, rows: WatchedRows) -> NDArray[np.float32]:
    """Return what the model, run as in training, gives for `batch` and these rows."""
    modules = embedding_modules(model)
    stores = [module.store for module in modules]
    try:
        for module in modules:
            module.store = rows
        with torch.no_grad():
            return as_scores(model(batch), len(batch)).numpy()
    finally:
        for module, store in zip(modules, stores, strict=True):
            module.store = store


def _require_same(scores: Any, expected: NDArray[np.float32], what: str) -> None:
    wrong = difference(np.asarray(scores.detach() if torch.is_tensor(scores) else scores), expected)
    if wrong > TOLERANCE:
        raise InvalidArgument(
            f"the {what} made of the model scores otherwise than the model, by {wrong:.3g} where "
            f"{TOLERANCE:g} is allowed; no bundle was made: the model must be a function of its "
            "embeddings and dense numbers in eval mode, without Python branches on their values"
        )


def _save_program(
    program: torch.export.ExportedProgram, folder: Path, feeds: Any, output: str
) -> None:
    torch.export.save(program, folder / manifests.PROGRAM)
    try:
        with warnings.catch_warnings():
            # torch about its own parts.
            warnings.simplefilter("ignore", FutureWarning)
            torch.onnx.export(
                program, (), folder / manifests.ONNX, input_names=list(feeds),
                output_names=[output], dynamo=True, external_data=False, verbose=False,
            )  # fmt: skip
    except ModuleNotFoundError as error:
        raise Unavailable(
            f"{error.name} is not installed here, which writing ONNX needs; install embery[serving]"
        ) from error
    for name in (manifests.PROGRAM, manifests.ONNX):
        sync(folder / name)


@contextmanager
def _as_saved(model: nn.Module, found: Checkpoint) -> Iterator[None]:
    """Give the model the parameters of the checkpoint and eval mode, within the context."""
    saved = found.state.get("model") if isinstance(found.state, dict) else None
    before = dense_state.model_state(model)
    modes = {module: module.training for module in model.modules()}
    if saved is not None:
        dense_state.check_model(model, saved, found.path)
    try:
        if saved is not None:
            dense_state.load_model(model, saved)
        model.eval()
        yield
    finally:
        dense_state.load_model(model, before)
        for module, training in modes.items():
            module.training = training


def _require_tables(model: nn.Module, found: Checkpoint) -> None:
    for module in embedding_modules(model):
        for name in module.table_names:
            entry = found.tables.get(name)
            if entry is None or entry.definition["dim"] != module.tables[name].dim:
                saved = None if entry is None else entry.definition["dim"]
                raise SchemaMismatch(
                    f"{found.path} was saved by another model: table {name!r} has dim {saved} "
                    f"there and {module.tables[name].dim} here (None: there is none); build the "
                    "model as it was"
                )


def _block_of(example: em.data.Batch, schema: Schema) -> Block:
    """Return the first samples of a batch, at least two, as keys and numbers."""
    count = min(len(example), EXAMPLES_MAX)
    if not count or example.sparse is None or example.sparse.keys() != schema.keys:
        got = None if example.sparse is None else example.sparse.keys()
        raise InvalidArgument(
            f"the example must be a batch of the schema, with the features {schema.keys}, got "
            f"{len(example)} samples of {got}"
        )
    bags = []
    for column in schema.sparse:
        values = example.sparse[column.key]
        offsets = values.offsets().numpy().astype(np.int64)
        weighs = isinstance(column, SparseList) and column.weights is not None
        weights = values.weights().numpy() if weighs else None
        bags.append(Bags(values.values().numpy().view(np.uint64), offsets, weights))
    dense = np.empty((len(example), 0), np.float32) if example.dense is None else example.dense
    label = np.zeros((len(example), 0), np.float32)
    block = Block(label, np.asarray(dense), tuple(bags)).slice(0, count)
    # One sample could not tell what depends on their number.
    return block if count > 1 else concatenate([block, block])


def _batch_of(block: Block, schema: Schema) -> em.data.Batch:
    label = np.zeros((len(block), len(schema.labels)), np.float32)
    return batch_of(Block(label, block.dense, block.sparse), schema, 0)
