"""`embery inspect`: a row, or a table's statistics, of a checkpoint or a running cluster."""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime, timezone
from typing import Any, Protocol

import numpy as np

from embery import checkpoint
from embery.checkpoint import Checkpoint
from embery.cli.command import add_json_argument, fail, print_fields, print_json
from embery.cli.serving import add_credential_arguments, credentials_of
from embery.errors import InvalidArgument
from embery.observability.progress import progress
from embery.rows import decode_values, describe
from embery.rpc.address import SCHEME
from embery.table import Table

EXAMPLE = """embery inspect runs/7 item 0x2a --json
  embery inspect embery://127.0.0.1:7070 item"""
FAILED = 1
# Of what a store saves beside the rows: a number a slot group, and so many numbers an entry.
_COUNTERS = ("admitted", "rejected", "evicted", "deleted", "non_finite", "updates")
_LIST_WIDTHS = {"candidates": 3, "tombstones": 2}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="embery://HOST:PORT, the coordinator of a cluster; or a checkpoint: a manifest, its "
        "folder, or a folder of checkpoints",
    )
    parser.add_argument("table", metavar="TABLE", help="name of the table")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "key",
        metavar="KEY",
        nargs="?",
        type=_key,
        help="the row's key, decimal or 0x hexadecimal; without it, statistics of the table",
    )
    which.add_argument(
        "--string", metavar="S", help="the row of the key that this string hashes to"
    )
    parser.add_argument(
        "--seed", type=_seed, default=0, help="seed of the hash of --string (default: 0)"
    )
    add_json_argument(parser)
    add_credential_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the row or the statistics."""
    key = arguments.key
    if arguments.string is not None:
        key = _hash(arguments.string, arguments.seed)
    with _source_of(arguments) as source:
        if key is None:
            statistics = source.statistics()
            print_json(statistics) if arguments.json else _print_statistics(statistics)
            return 0
        row = source.row(key)
    if row is None:
        fail(f"{source.where}: table {arguments.table!r} has no row of key {key}")
        return FAILED
    print_json(row) if arguments.json else _print_row(row)
    return 0


class Source(Protocol):
    """A table that can be looked into."""

    where: str

    def row(self, key: int) -> dict[str, Any] | None:
        """Return a row as `Store.inspect` does; None if it does not exist."""

    def statistics(self) -> dict[str, Any]:
        """Return what there is to say about all rows, with the "definition" of the table."""


def _source_of(arguments: argparse.Namespace) -> AbstractContextManager[Source]:
    source, table = arguments.source, arguments.table
    if source.startswith(SCHEME):
        from embery.cli.live_table import LiveTable  # noqa: PLC0415  gRPC is slow to import

        return LiveTable.of(source, table, credentials_of(arguments))
    if source.startswith("embedded:"):
        raise InvalidArgument(
            f"{source!r}: an embedded store lives inside the process that trains, out of reach "
            "from here; inspect a checkpoint of it, or call store.inspect(table, key) there"
        )
    return nullcontext(_SavedTable(checkpoint.open_unchecked(source), table))


class _SavedTable:
    """A table of a checkpoint."""

    def __init__(self, found: Checkpoint, table: str) -> None:
        self.where = found.path
        self._found, self._table = found, table

    def row(self, key: int) -> dict[str, Any] | None:
        """Return a row; only the file of its slot is read, and verified."""
        from embery.routing import slots_of  # noqa: PLC0415  native code, not needed for statistics

        slot = int(slots_of(self._table, np.array([key], np.uint64))[0])
        for columns in self._found.rows(self._table, slot=slot):
            places = np.flatnonzero(columns["key"] == np.uint64(key))
            if places.size:
                definition = Table.from_dict(self._found.tables[self._table].definition)
                return {**describe(definition, columns, int(places[0])), "slot": slot}
        return None

    def statistics(self) -> dict[str, Any]:
        """Return what the rows are like; every file of the table is read, and verified."""
        state = self._found.table_state(self._table)
        entry = self._found.tables[self._table]
        definition = entry.definition
        updates, steps, times = _Range(), _Range(), _Range()
        values = _Moments()
        with progress(f"reading {self._table}", total=entry.rows, unit=" rows") as advance:
            for columns in self._found.rows(self._table):
                updates.add(columns["count"])
                steps.add(columns["step"])
                times.add(columns["time_s"])
                values.add(decode_values(definition["dtype"], definition["dim"], columns["values"]))
                advance(len(columns["key"]))
        return {
            "checkpoint": self._found.path,
            "definition": dict(definition),
            "rows": entry.rows,
            "file_bytes": sum(file.bytes for file in entry.files()),
            "updates": updates.to_dict(),
            "last_step": steps.to_dict(),
            "last_time_s": times.to_dict(),
            "values": values.to_dict(),
            "counters": _counters(state),
        }


class _Range:
    """Smallest, largest and mean of integers."""

    def __init__(self) -> None:
        self._count = 0
        self._sum = 0
        self._low: int | None = None
        self._high: int | None = None

    def add(self, column: np.ndarray[Any, Any]) -> None:
        if column.size:
            low, high = int(column.min()), int(column.max())
            self._low = low if self._low is None else min(self._low, low)
            self._high = high if self._high is None else max(self._high, high)
            self._sum += int(column.sum(dtype=np.uint64))
            self._count += column.size

    def to_dict(self) -> dict[str, Any]:
        mean = self._sum / self._count if self._count else None
        return {"min": self._low, "mean": mean, "max": self._high}


class _Moments:
    """Mean, deviation and extremes of the finite values, and the number of the others."""

    def __init__(self) -> None:
        self._count = self._nonfinite = 0
        self._sum = self._squares = 0.0
        self._low, self._high = np.inf, -np.inf

    def add(self, values: np.ndarray[Any, Any]) -> None:
        finite = values[np.isfinite(values)].astype(np.float64)
        self._nonfinite += values.size - finite.size
        if finite.size:
            self._count += finite.size
            self._sum += float(finite.sum())
            self._squares += float(np.square(finite).sum())
            self._low = min(self._low, float(finite.min()))
            self._high = max(self._high, float(finite.max()))

    def to_dict(self) -> dict[str, Any]:
        if not self._count:
            return {"nonfinite": self._nonfinite}
        mean = self._sum / self._count
        variance = max(0.0, self._squares / self._count - mean * mean)
        return {
            "min": self._low,
            "mean": mean,
            "max": self._high,
            "deviation": variance**0.5,
            "nonfinite": self._nonfinite,
        }


def _counters(state: Any) -> dict[str, int]:
    """Return the step, the counters, and the numbers of candidates and tombstones of a table."""
    counters = {"step": int(state["step"])}
    counters.update({name: int(np.sum(state[name])) for name in _COUNTERS if name in state})
    widths = ((name, width) for name, width in _LIST_WIDTHS.items() if name in state)
    counters.update({name: np.size(state[name]) // width for name, width in widths})
    return counters


def _print_row(row: dict[str, Any]) -> None:
    state = [(f"state {name}", _numbers(part)) for name, part in row["state"].items()]
    print_fields(
        [
            ("table", row["table"]),
            ("key", f"{row['key']}  0x{row['key']:016x}"),
            ("slot", str(row["slot"])),
            *([("server", f"{row['server']} at {row['address']}")] if "server" in row else []),
            ("updates", str(row["updates"])),
            ("last step", str(row["last_step"])),
            ("last time", _moment(row["last_time_s"])),
            ("lsn", str(row["lsn"])),
            ("values", _numbers(row["values"])),
            *state,
        ]
    )


def _print_statistics(statistics: dict[str, Any]) -> None:
    definition = statistics["definition"]
    fields = [
        ("table", definition["name"]),
        *((name, str(value)) for name, value in definition.items() if name != "name"),
    ]
    if "checkpoint" in statistics:
        times = statistics["last_time_s"]
        fields = [
            ("checkpoint", statistics["checkpoint"]),
            *fields,
            ("rows", f"{statistics['rows']:,}"),
            ("file bytes", f"{statistics['file_bytes']:,}"),
            ("updates", _summary(statistics["updates"])),
            ("last step", _summary(statistics["last_step"])),
            ("last time", f"{_moment(times['min'])} to {_moment(times['max'])}"),
            ("values", _summary(statistics["values"])),
        ]
    fields += [(name, f"{value:,}") for name, value in statistics["counters"].items()]
    for server in statistics.get("servers", ()):
        held = f"{server['rows']:,} rows, {server['bytes']:,} bytes"
        fields.append((f"server {server['server']}", held))
    print_fields(fields)


def _numbers(values: list[float]) -> str:
    return " ".join(f"{value:.9g}" for value in values)


def _summary(parts: dict[str, Any]) -> str:
    known = {name: value for name, value in parts.items() if value is not None}
    return ", ".join(f"{name} {value:.6g}" for name, value in known.items()) or "none"


def _moment(time_s: int | None) -> str:
    if time_s is None:
        return "none"
    return datetime.fromtimestamp(time_s, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")


def _hash(string: str, seed: int) -> int:
    import pyarrow as pa  # noqa: PLC0415

    from embery.data.keys import keys_of  # noqa: PLC0415  only strings need it

    return int(keys_of(pa.array([string]), seed=seed)[0])


def _key(text: str) -> int:
    try:
        key = int(text, 16) if text.lower().startswith("0x") else int(text, 10)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither decimal nor 0x hexadecimal; use --string for a string"
        ) from None
    if not 0 <= key < 2**64:
        raise argparse.ArgumentTypeError(f"{text!r} is outside [0, 2^64)")
    return key


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer in [0, 2^32)")
    return int(text)
