"""The manifest of a checkpoint: what it holds, under one seal.

The encoder and decoder of `manifest.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from embery.checkpoint import format as fmt
from embery.checkpoint.columns import RowLayout
from embery.checkpoint.sealed import require_only as _require_only
from embery.checkpoint.sealed import require_seal, seal
from embery.checkpoint.sealed import take as _take
from embery.checkpoint.sealed import take_count as _take_count
from embery.errors import CheckpointCorrupt


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file of the checkpoint: its name in the folder, its size and the CRC-32 of all of it."""

    name: str
    bytes: int
    crc32: str


@dataclass(frozen=True, slots=True)
class GroupEntry:
    """The rows of a table in the slots [slot_begin, slot_end)."""

    slot_begin: int
    slot_end: int
    rows: int
    file: FileEntry


@dataclass(frozen=True, slots=True)
class TableEntry:
    """A table: its definition (`Table.to_dict()`), the layout of its rows, and its files."""

    name: str
    definition: Mapping[str, Any]
    value_bytes: int
    state_floats: int
    rows: int
    groups: tuple[GroupEntry, ...]
    state: FileEntry

    @property
    def layout(self) -> RowLayout:
        """Return how its rows are laid out in columns."""
        return RowLayout.of(self.definition, self.value_bytes, self.state_floats)

    def files(self) -> list[FileEntry]:
        """Return all files of the table."""
        return [*(group.file for group in self.groups), self.state]


@dataclass(frozen=True, slots=True)
class Manifest:
    """All there is to know about a checkpoint but its bytes.

    A delta has the `base` that it builds on: the number of a checkpoint beside it, and its seal.
    """

    number: int
    created_at_s: int
    writer: str
    tables: tuple[TableEntry, ...]
    state: FileEntry | None
    kind: str = "full"
    base: int | None = None
    base_seal: str | None = None

    def files(self) -> list[FileEntry]:
        """Return all files of the checkpoint but the manifest."""
        own = [] if self.state is None else [self.state]
        return [*(file for table in self.tables for file in table.files()), *own]


def encode(manifest: Manifest) -> bytes:
    """Return the bytes of `manifest.json`."""
    is_full = manifest.base is None
    head = {
        "format": fmt.FORMAT,
        "version": fmt.VERSION if is_full else fmt.DELTA_VERSION,
        "slots": fmt.SLOTS,
        "slot_hash": fmt.SLOT_HASH,
    }
    members = asdict(manifest)
    if is_full:
        del members["base_seal"]
    return seal(json.dumps({**head, **members}, indent=1, allow_nan=False))


def decode(data: bytes, where: str) -> Manifest:
    """Return the manifest in `data`, read from the file `where`.

    Raises:
        CheckpointCorrupt: a byte is damaged or missing, or it is another program's or version's.
    """
    require_seal(data, fmt.FORMAT, where)
    try:
        members = json.loads(data)
        is_delta = _check_head(members, where) == fmt.DELTA_VERSION
        tables = tuple(_table(table) for table in _take(members, "tables", list))
        state = _take(members, "state", dict, None)
        base = _take(members, "base", int, None)
        manifest = Manifest(
            number=_take(members, "number", int),
            created_at_s=_take(members, "created_at_s", int),
            writer=_take(members, "writer", str),
            tables=tables,
            state=None if state is None else _file(state),
            kind=_take(members, "kind", str),
            base=base,
            base_seal=_take(members, "base_seal", str) if is_delta else None,
        )
        if not is_delta:
            _require_absent(members, "base_seal")
        _require_only(members, Manifest, "format", "version", "slots", "slot_hash", "sha256")
        _check(manifest)
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise CheckpointCorrupt(
            f"{where}: expected the members of docs/formats/checkpoint.md, got: {error}"
        ) from error
    return manifest


def _check_head(members: Any, where: str) -> int:
    """Return the version."""
    found = _take(members, "format", str)
    if found != fmt.FORMAT:
        raise CheckpointCorrupt(f"{where}: expected format {fmt.FORMAT!r}, got {found!r}")
    version: int = _take(members, "version", int)
    if version not in (fmt.VERSION, fmt.DELTA_VERSION):
        raise CheckpointCorrupt(
            f"{where}: expected format version {fmt.VERSION} or {fmt.DELTA_VERSION}, got "
            f"{version}; read it with the version of Embery that wrote it, or a later one"
        )
    for key, expected in (("slots", fmt.SLOTS), ("slot_hash", fmt.SLOT_HASH)):
        got = _take(members, key, int)
        if got != expected:
            raise CheckpointCorrupt(f"{where}: expected {key} {expected}, got {got}")
    return version


def _check(manifest: Manifest) -> None:
    """Check what the members say together; raise ValueError."""
    if manifest.number < 1:
        raise ValueError(f"number {manifest.number}")
    kind = "full" if manifest.base_seal is None else "delta"
    if manifest.kind != kind or (manifest.base is None) != (kind == "full"):
        raise ValueError(
            f"kind {manifest.kind!r} on base {manifest.base}, expected {kind!r} in this version"
        )
    if manifest.base is not None and not 0 < manifest.base < manifest.number:
        raise ValueError(f"number {manifest.number} on base {manifest.base}")
    names = [table.name for table in manifest.tables]
    if names != sorted(set(names)):
        raise ValueError(f"tables {names}, which are not sorted or not distinct")
    files = [file.name for file in manifest.files()]
    if len(files) != len(set(files)):
        raise ValueError("two entries that share a file")
    for table in manifest.tables:
        if table.definition.get("name") != table.name:
            raise ValueError(f"table {table.name!r} with the definition of another")
        table.layout.validate()
        if table.rows != sum(group.rows for group in table.groups):
            raise ValueError(
                f"table {table.name!r}: {table.rows} rows, which its groups do not add up to"
            )
        at = 0
        for group in table.groups:
            if not at <= group.slot_begin < group.slot_end <= fmt.SLOTS:
                raise ValueError(f"table {table.name!r}: slots {group.slot_begin}-{group.slot_end}")
            at = group.slot_end


def _table(members: Any) -> TableEntry:
    _require_only(members, TableEntry)
    return TableEntry(
        name=_take(members, "name", str),
        definition=_take(members, "definition", dict),
        value_bytes=_take_count(members, "value_bytes"),
        state_floats=_take_count(members, "state_floats"),
        rows=_take_count(members, "rows"),
        groups=tuple(_group(group) for group in _take(members, "groups", list)),
        state=_file(_take(members, "state", dict)),
    )


def _group(members: Any) -> GroupEntry:
    _require_only(members, GroupEntry)
    return GroupEntry(
        slot_begin=_take_count(members, "slot_begin"),
        slot_end=_take_count(members, "slot_end"),
        rows=_take_count(members, "rows"),
        file=_file(_take(members, "file", dict)),
    )


def _file(members: Any) -> FileEntry:
    _require_only(members, FileEntry)
    name = _take(members, "name", str)
    if not fmt.is_data_file(name):
        raise ValueError(f"file name {name!r}")
    return FileEntry(
        name=name, bytes=_take_count(members, "bytes"), crc32=_take(members, "crc32", str)
    )


def _require_absent(members: Any, key: str) -> None:
    if key in members:
        raise ValueError(f"unknown members [{key!r}] in a full checkpoint")
