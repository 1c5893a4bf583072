"""Hive partitions: columns whose values stand in a path, as in day=2024-01-01/part-0.parquet."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.dataset as pads

from embery.data.files import reading
from embery.errors import InvalidArgument

_NULL = "__HIVE_DEFAULT_PARTITION__"
_INTEGER = re.compile(r"-?[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class Partition:
    """What the path of one file says of all its rows.

    Args:
        fields: the names and types of the columns.
        values: the value of each; None stands for a null.
    """

    fields: pa.Schema
    values: dict[str, int | str | None]

    def add_to(self, table: pa.Table) -> pa.Table:
        """Return a table of rows of the file with these columns behind its own."""
        for field in self.fields:
            value = pa.scalar(self.values[field.name], field.type)
            table = table.append_column(field, pa.repeat(value, table.num_rows))
        return table


class Partitions:
    """The partition columns of some files, of one type each in all of them.

    A folder NAME=VALUE anywhere in a path gives the column NAME, with URI escapes undone. Integers
    of up to 18 digits make an int64 column, if all its values are such; else it holds strings.
    `__HIVE_DEFAULT_PARTITION__` is a null. Immutable.

    Args:
        files: the paths, with "/" between folders.
        columns: the names that matter; other folders are passed over.
    """

    def __init__(self, files: Iterable[str], columns: Collection[str]) -> None:
        found: dict[str, set[str]] = {}
        for folder in {posixpath.dirname(path) for path in files}:
            for name, value in _segments(folder):
                if name in columns:
                    found.setdefault(name, set()).add(value)
        self._types = {name: _type_of(values) for name, values in sorted(found.items())}

    def of(self, path: str, fields: pa.Schema) -> Partition:
        """Return the partition of a file.

        Args:
            path: one of the files.
            fields: its own columns, which go before folders of the same name.

        Raises:
            InvalidArgument: neither the file nor its path has a column that other paths have, or
                its path has it twice, or as bytes that are not UTF-8.
        """
        folders = [name for name, _ in _segments(posixpath.dirname(path))]
        mine = [name for name in self._types if name not in fields.names]
        for name in mine:
            if folders.count(name) != 1:
                what = "no folder" if name not in folders else f"{folders.count(name)} folders"
                raise InvalidArgument(
                    f"{path}: no column {name!r}; the file has {fields.names}, and its path {what} "
                    f"'{name}=...'; expected one, as in the other files"
                )
        own = pa.schema([(name, self._types[name]) for name in mine])
        with reading(path):
            expression = pads.HivePartitioning(own).parse(path)
        return Partition(own, pads.get_partition_keys(expression))


def _segments(folder: str) -> list[tuple[str, str]]:
    pairs = [part.partition("=") for part in folder.split("/")]
    return [(unquote(name), unquote(value)) for name, equals, value in pairs if name and equals]


def _type_of(values: set[str]) -> pa.DataType:
    present = values - {_NULL}
    is_integer = present and all(_INTEGER.fullmatch(value) for value in present)
    return pa.int64() if is_integer else pa.string()
