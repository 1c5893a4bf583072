"""The manifest of a bundle: what it holds and what it needs, under one seal.

The encoder and decoder of `manifest.json`; docs/formats/bundle.md is its meaning.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar

from embery.checkpoint.sealed import require_only, require_seal, seal, take, take_count
from embery.data.schema import Dense, Label, Schema, Sparse, SparseList
from embery.errors import CheckpointCorrupt
from embery.serving.scorer import Output
from embery.table import DTYPES

T = TypeVar("T")

FORMAT = "embery-bundle"
# Of the format. Nothing in this file may change without a new one.
VERSION = 1
MANIFEST = "manifest.json"
MANIFEST_BYTES_MAX = 64 << 20
PROGRAM = "dense.pt2"
ONNX = "dense.onnx"
EXAMPLES = "examples.json"
POOLINGS = ("sum", "mean", "sqrtn")


def table_file(number: int) -> str:
    """Return the name of the file of table number `number`."""
    return f"table-{number}.rows"


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file of the bundle: its name in the folder, its size, and the SHA-256 of all of it."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class TableEntry:
    """The rows of a table, as they are stored here."""

    name: str
    dtype: str
    dim: int
    rows: int
    file: FileEntry


@dataclass(frozen=True, slots=True)
class FeatureEntry:
    """A sparse feature, the table of its rows, and how they are pooled (None: they are not)."""

    name: str
    table: str
    pooling: str | None


@dataclass(frozen=True, slots=True)
class Collection:
    """The features that one embedding module of the model reads, in its order."""

    pooled: bool
    features: tuple[FeatureEntry, ...]


@dataclass(frozen=True, slots=True)
class Filters:
    """Which rows were left out: those with fewer updates, or not touched for longer."""

    min_count: int = 0
    max_age_s: int | None = None


@dataclass(frozen=True, slots=True)
class Base:
    """The bundle that a delta is laid over: its folder, beside the delta's, and its manifest."""

    folder: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """All there is to know about a bundle but its bytes.

    With a `base` it is a delta: its tables hold only the rows in which they differ from those of
    the base, a row that the base alone has being zeros, as which an absent one reads.
    """

    model_version: int
    checkpoint_number: int
    base: Base | None
    created_at_s: int
    writer: str
    schema: Schema
    list_length_max: int
    filters: Filters
    tables: tuple[TableEntry, ...]
    collections: tuple[Collection, ...]
    output: Output
    program: FileEntry
    onnx: FileEntry
    examples: FileEntry

    def files(self) -> list[FileEntry]:
        """Return all files of the bundle but the manifest."""
        return [*(table.file for table in self.tables), *self.small_files()]

    def small_files(self) -> list[FileEntry]:
        """Return the files that are verified whenever a bundle is opened."""
        return [self.program, self.onnx, self.examples]


def encode(manifest: Manifest) -> bytes:
    """Return the bytes of `manifest.json`."""
    members = {"format": FORMAT, "version": VERSION, **asdict(manifest)}
    if manifest.base is None:
        del members["base"]
    members["schema"] = _schema_members(manifest.schema)
    return seal(json.dumps(members, indent=1, allow_nan=False))


def decode(data: bytes, where: str) -> Manifest:
    """Return the manifest in `data`, read from the file `where`.

    Raises:
        CheckpointCorrupt: a byte is damaged or missing, or it is another program's or version's.
    """
    require_seal(data, FORMAT, where)
    try:
        members = json.loads(data)
        _check_head(members, where)
        require_only(members, Manifest, "format", "version", "sha256")
        manifest = Manifest(
            model_version=take_count(members, "model_version"),
            checkpoint_number=take_count(members, "checkpoint_number"),
            base=_base(take(members, "base", dict) if "base" in members else None),
            created_at_s=take_count(members, "created_at_s"),
            writer=take(members, "writer", str),
            schema=_schema(take(members, "schema", dict)),
            list_length_max=take_count(members, "list_length_max"),
            filters=_filters(take(members, "filters", dict)),
            tables=_each(members, "tables", _table),
            collections=_each(members, "collections", _collection),
            output=_output(take(members, "output", dict)),
            program=_file(take(members, "program", dict)),
            onnx=_file(take(members, "onnx", dict)),
            examples=_file(take(members, "examples", dict)),
        )
        _check(manifest)
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise CheckpointCorrupt(
            f"{where}: expected the members of docs/formats/bundle.md, got: {error}"
        ) from error
    return manifest


def _check_head(members: Any, where: str) -> None:
    found = take(members, "format", str)
    if found != FORMAT:
        raise CheckpointCorrupt(f"{where}: expected format {FORMAT!r}, got {found!r}")
    version = take(members, "version", int)
    if version != VERSION:
        raise CheckpointCorrupt(
            f"{where}: expected format version {VERSION}, got {version}; read it with the version "
            "of Embery that wrote it, or a later one"
        )


def _check(manifest: Manifest) -> None:
    """Check what the members say together; raise ValueError."""
    tables = [table.name for table in manifest.tables]
    if tables != sorted(set(tables)):
        raise ValueError(f"tables {tables}, which are not sorted or not distinct")
    names = [file.name for file in manifest.files()]
    if len(names) != len(set(names)):
        raise ValueError("two entries that share a file")
    keys = manifest.schema.keys
    for collection in manifest.collections:
        for feature in collection.features:
            if feature.table not in tables or feature.name not in keys:
                raise ValueError(
                    f"feature {feature.name!r} of table {feature.table!r}, which are not there"
                )
            if (feature.pooling in POOLINGS) != collection.pooled:
                raise ValueError(f"feature {feature.name!r} with pooling {feature.pooling!r}")


def _each(members: Any, key: str, decode_one: Callable[[Any], T]) -> tuple[T, ...]:
    return tuple(decode_one(item) for item in take(members, key, list))


def _base(members: Any) -> Base | None:
    if members is None:
        return None
    require_only(members, Base)
    return Base(_plain_name(take(members, "folder", str)), take(members, "sha256", str))


def _plain_name(name: str) -> str:
    if not name or "/" in name or name in (".", "..", MANIFEST):
        raise ValueError(f"file name {name!r}")
    return name


def _file(members: Any) -> FileEntry:
    require_only(members, FileEntry)
    name = _plain_name(take(members, "name", str))
    return FileEntry(name, take_count(members, "bytes"), take(members, "sha256", str))


def _table(members: Any) -> TableEntry:
    require_only(members, TableEntry)
    dtype = take(members, "dtype", str)
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r}")
    return TableEntry(
        name=take(members, "name", str),
        dtype=dtype,
        dim=take_count(members, "dim"),
        rows=take_count(members, "rows"),
        file=_file(take(members, "file", dict)),
    )


def _collection(members: Any) -> Collection:
    require_only(members, Collection)
    return Collection(take(members, "pooled", bool), _each(members, "features", _feature))


def _feature(members: Any) -> FeatureEntry:
    require_only(members, FeatureEntry)
    return FeatureEntry(
        name=take(members, "name", str),
        table=take(members, "table", str),
        pooling=take(members, "pooling", str, None),
    )


def _filters(members: Any) -> Filters:
    require_only(members, Filters)
    return Filters(take_count(members, "min_count"), take(members, "max_age_s", int, None))


def _output(members: Any) -> Output:
    require_only(members, Output)
    meaning: Literal["logits", "probabilities"] = take(members, "meaning", str)
    if meaning not in ("logits", "probabilities"):
        raise ValueError(f"meaning {meaning!r}")
    return Output(take(members, "name", str), meaning)


_COLUMNS: dict[str, type[Sparse]] = {"sparse": Sparse, "sparse_list": SparseList}


def _schema_members(schema: Schema) -> dict[str, Any]:
    kinds = {kind: name for name, kind in _COLUMNS.items()}
    return {
        "labels": [label.name for label in schema.labels],
        "dense": [asdict(column) for column in schema.dense],
        "sparse": [{"kind": kinds[type(c)], **asdict(c)} for c in schema.sparse],
    }


def _schema(members: Mapping[str, Any]) -> Schema:
    dense = [dict(column) for column in take(members, "dense", list)]
    sparse = [dict(column) for column in take(members, "sparse", list)]
    return Schema(
        label=[Label(name) for name in take(members, "labels", list)],
        dense=[Dense(column.pop("name"), **column) for column in dense],
        sparse=[_COLUMNS[c.pop("kind")](c.pop("name"), **c) for c in sparse],
    )
