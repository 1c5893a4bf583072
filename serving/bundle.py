"""Opens a bundle and scores with it. Needs no torch: ONNX Runtime computes the dense part.

    bundle = Bundle.open("bundles/7")
    scorer = bundle.scorer(threads=1)
    scores = scorer.score(scorer.read({"user": users, "item": items}))

The format is docs/formats/bundle.md.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embery.data.block import Block
from embery.errors import CheckpointCorrupt, Unavailable
from embery.serving import manifest as manifests
from embery.serving.embeddings import Embeddings
from embery.serving.examples import Examples
from embery.serving.lookup import BundleTable
from embery.serving.manifest import FileEntry, Manifest
from embery.serving.requests import RequestReader
from embery.serving.scorer import Features, Input, Output
from embery.serving.table_file import sha256_of
from embery.validation import require_int

THREADS_MAX = 1024
# How far a score here may be from the one that training gave: float32 added up in another order.
TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """A bundle that was opened: its manifest was read, and its small files verified.

    Of a table, header and size are checked when it is first used; its rows are verified by
    `verify` alone, which reads all of them.
    """

    path: Path
    manifest: Manifest

    @staticmethod
    def open(path: str | os.PathLike[str], *, verify: bool = False) -> Bundle:
        """Open a bundle.

        Args:
            path: its folder.
            verify: compare all bytes with their checksums first, which takes as long as reading
                them. Otherwise the tables are only mapped, which takes no time.

        Raises:
            CheckpointCorrupt: it is none, or a byte that was looked at is damaged or missing.
            Unavailable: the file system failed.
        """
        folder = Path(path)
        where = folder / manifests.MANIFEST
        data = _read(where, manifests.MANIFEST_BYTES_MAX)
        bundle = Bundle(folder, manifests.decode(data, str(where)))
        for entry in bundle.manifest.files():
            bundle._require_size(entry)
        for entry in bundle.manifest.files() if verify else bundle.manifest.small_files():
            bundle._verify(entry)
        base = bundle.base()
        if base is not None and verify:
            base.verify()
        return bundle

    def base(self) -> Bundle | None:
        """Open the bundle that this one is laid over; return None if it is no delta.

        Raises:
            CheckpointCorrupt: it is not beside this one, or it is another one.
        """
        named = self.manifest.base
        if named is None:
            return None
        base = Bundle.open(self.path.parent / named.folder)
        found = FileEntry(manifests.MANIFEST, 0, named.sha256)
        base._verify(found)
        if base.manifest.base is not None:
            raise CheckpointCorrupt(f"{self.path}: its base {base.path} is a delta itself")
        return base

    def verify(self) -> None:
        """Compare all bytes with their checksums; raise `CheckpointCorrupt` at a difference."""
        for entry in self.manifest.files():
            self._verify(entry)

    def tables(self) -> dict[str, BundleTable]:
        """Map the tables, by name; those of a delta are laid over those of its base."""
        base = self.base()
        below = {} if base is None else base.tables()
        return {
            entry.name: BundleTable(str(self.path / entry.file.name), entry, below.get(entry.name))
            for entry in self.manifest.tables
        }

    def examples(self) -> Examples:
        """Return requests with the scores that training gave them."""
        where = self.path / self.manifest.examples.name
        return Examples.decode(_read(where, self.manifest.examples.bytes), str(where))

    def scorer(self, *, threads: int = 1) -> BundleScorer:
        """Return what scores with this bundle, after it scored the examples as training did.

        Args:
            threads: of one call, for the dense part.

        Raises:
            CheckpointCorrupt: a table is damaged, or the examples score otherwise.
        """
        scorer = BundleScorer(self, threads=threads)
        examples = self.examples()
        wrong = difference(scorer.score(scorer.read(examples.features)), examples.scores)
        if wrong > TOLERANCE:
            raise CheckpointCorrupt(
                f"{self.path}: its examples score otherwise than in training, by {wrong:.3g} where "
                f"{TOLERANCE:g} is allowed; the bundle is damaged, see its checksums with verify"
            )
        return scorer

    def _require_size(self, entry: FileEntry) -> None:
        where = self.path / entry.name
        try:
            size = where.stat().st_size
        except OSError as error:
            raise _cannot_read(where, error) from error
        if size != entry.bytes:
            raise CheckpointCorrupt(
                f"{where}: expected {entry.bytes} bytes, got {size}; the file is damaged or cut "
                "short"
            )

    def _verify(self, entry: FileEntry) -> None:
        where = self.path / entry.name
        try:
            with where.open("rb", buffering=0) as file:
                found = sha256_of(file)
        except OSError as error:
            raise _cannot_read(where, error) from error
        if found != entry.sha256:
            raise CheckpointCorrupt(
                f"{where}: expected SHA-256 {entry.sha256}, got {found}; the file is damaged"
            )


class BundleScorer:
    """A `Scorer` of one bundle. Thread-safe.

    `embeddings` is what it computes itself, the inputs of the dense part.
    """

    def __init__(self, bundle: Bundle, *, threads: int) -> None:
        require_int("threads", threads, low=1, high=THREADS_MAX)
        manifest = bundle.manifest
        self.version = manifest.model_version
        self.outputs: tuple[Output, ...] = (manifest.output,)
        self._reader = RequestReader(manifest.schema, list_length_max=manifest.list_length_max)
        self.tables = bundle.tables()
        self.embeddings = Embeddings(manifest.schema, manifest.collections, self.tables)
        self._session = _session(bundle.path / manifest.onnx.name, threads)

    @cached_property
    def inputs(self) -> tuple[Input, ...]:
        """Return what a request must bring; see `Scorer.inputs`."""
        return self._reader.inputs

    def read(self, features: Features) -> Block:
        """Return the samples of a request; see `Scorer.read`."""
        return self._reader.read(features)

    def score(self, block: Block) -> NDArray[np.float32]:
        """Return a score for each sample; see `Scorer.score`."""
        if not len(block):
            return np.empty(0, np.float32)
        (scores,) = self._session.run(None, self.embeddings.feeds(block))
        found: NDArray[np.float32] = scores
        return found


def difference(scores: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Return the largest difference of two lists of scores, relative where they exceed 1.

    It is infinite for lists of different lengths, and where one score is NaN and the other not.
    """
    if scores.shape != expected.shape:
        return float("inf")
    both_nan = np.isnan(scores) & np.isnan(expected)
    gaps = np.abs(scores - expected) / np.maximum(1.0, np.abs(expected))
    gaps = np.where(both_nan | (scores == expected), 0.0, np.nan_to_num(gaps, nan=np.inf))
    return float(gaps.max(initial=0.0))


def _session(path: Path, threads: int) -> Any:
    try:
        import onnxruntime  # noqa: PLC0415  an extra, and slow to import
    except ImportError as error:
        raise Unavailable(
            "ONNX Runtime is not installed here, which computes the dense part of a model; "
            "install embery[serving]"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(
            str(path), sess_options=options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        raise CheckpointCorrupt(f"{path}: ONNX Runtime cannot load it: {error}") from error


def _read(where: Path, bytes_max: int) -> bytes:
    try:
        with where.open("rb") as file:
            data = file.read(bytes_max + 1)
    except OSError as error:
        raise _cannot_read(where, error) from error
    if len(data) > bytes_max:
        raise CheckpointCorrupt(f"{where}: expected at most {bytes_max} bytes, got more")
    return data


def _cannot_read(where: Path, error: OSError) -> Exception:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return CheckpointCorrupt(
            f"{where}: expected a file of a bundle, got none; the bundle is incomplete, or its "
            "folder another one"
        )
    return Unavailable(f"{where}: cannot read: {error.strerror or error}")
