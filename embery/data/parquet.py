"""Parquet files as a data set, through Arrow's datasets and filesystems."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import pyarrow.dataset as pads
from pyarrow import fs as pafs

from embery.data.block import Block, concatenate
from embery.data.convert import block_of
from embery.data.files import PathLike, reading, resolve
from embery.data.partitions import Partition, Partitions
from embery.data.reading import SHUFFLE_ROWS, BlockDataset, Task
from embery.data.schema import Schema
from embery.errors import InvalidArgument

SUFFIXES = (".parquet", ".parq", ".pq")
_FOOTER_THREADS = 8


@dataclass(frozen=True, slots=True)
class _RowGroup:
    """A row group: what is read, and skipped, as a whole."""

    fragment: pads.ParquetFileFragment
    partition: Partition
    where: str
    rows: int


class Parquet(BlockDataset):
    """The rows of Parquet files.

    The footers of all files are read, and every file checked against the schema, when the data set
    is made; nothing more is read before the first batch is asked for.

    Args:
        paths: a file, a folder, a glob, a URI (s3://, gs://, file://, ...), or several.
        schema: the columns to read and what they mean. A column that the files lack may be a Hive
            partition, a folder NAME=VALUE of their paths: int64 if all values are integers, else
            strings; `__HIVE_DEFAULT_PARTITION__` is a null.
        batch_size: rows of a batch.
        shuffle: read the row groups in a random order and shuffle the rows within windows of
            `shuffle_rows`, both anew every epoch. Row groups smaller than the window mix best.
        shuffle_rows: rows of the shuffle window, rounded up to whole batches. That many rows are
            held in memory, twice for a moment.
        seed: of the shuffling, 0 <= seed < 2**64.
        drop_last: leave out a last batch that is not full.
        readers: threads that read and decode row groups, each one group at a time.
        filesystem: an Arrow filesystem; None means the local one, or that of the URI. An fsspec
            filesystem is wrapped as `pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fs))`.

    Raises:
        InvalidArgument: an argument is out of its range; a file is missing, damaged or truncated,
            lacks a column, has one of another type, or has null labels. The file is named.
    """

    def __init__(
        self,
        paths: PathLike | Sequence[PathLike],
        *,
        schema: Schema,
        batch_size: int,
        shuffle: bool = False,
        shuffle_rows: int = SHUFFLE_ROWS,
        seed: int = 0,
        drop_last: bool = False,
        readers: int = 2,
        filesystem: pafs.FileSystem | None = None,
    ) -> None:
        super().__init__(
            schema=schema,
            batch_size=batch_size,
            shuffle=shuffle,
            shuffle_rows=shuffle_rows,
            seed=seed,
            drop_last=drop_last,
            readers=readers,
        )
        home, files = resolve(paths, filesystem=filesystem, suffixes=SUFFIXES)
        self._groups = _row_groups(home, files, schema)

    @property
    def num_rows(self) -> int:
        """Return the rows of an epoch."""
        return sum(group.rows for group in self._groups)

    @property
    def piece_count(self) -> int:
        """Return how many row groups with rows there are."""
        return len(self._groups)

    def _read_piece(self, number: int) -> Iterator[Task]:
        yield partial(_read_group, self._groups[number], self._schema, 0)

    def _read(self, epoch: int, first_row: int) -> Iterator[Task]:
        skip = first_row
        for number in self._order(len(self._groups), epoch):
            group = self._groups[number]
            if skip < group.rows:
                yield partial(_read_group, group, self._schema, skip)
            skip = max(0, skip - group.rows)


def _read_group(group: _RowGroup, schema: Schema, skip: int) -> Block:
    with reading(group.where):
        names = [name for name in schema.columns if name not in group.partition.values]
        table = group.fragment.to_table(columns=names)
    if table.num_rows != group.rows:
        raise InvalidArgument(
            f"{group.where}: has {table.num_rows} rows, but the footer says {group.rows}"
        )
    table = group.partition.add_to(table)
    blocks = []
    row = skip
    for records in table.slice(skip).to_batches():
        blocks.append(block_of(records, schema, group.where, first_row=row))
        row += records.num_rows
    return concatenate(blocks)


def _row_groups(home: pafs.FileSystem, files: list[str], schema: Schema) -> list[_RowGroup]:
    """Read the footers of all files; return their row groups that have rows, in order."""
    partitions = Partitions(files, schema.columns)
    inspect = partial(_inspect, home=home, schema=schema, partitions=partitions)
    with ThreadPoolExecutor(_FOOTER_THREADS, thread_name_prefix="embery-data-footer") as pool:
        return [group for groups in pool.map(inspect, files) for group in groups]


def _inspect(
    path: str, *, home: pafs.FileSystem, schema: Schema, partitions: Partitions
) -> list[_RowGroup]:
    """Check a file against the schema and return its row groups that have rows."""
    with reading(path):
        fragment = pads.ParquetFileFormat().make_fragment(path, home)
        fields = fragment.physical_schema
        metadata = fragment.metadata
    partition = partitions.of(path, fields)
    schema.check(pa.schema([*fields, *partition.fields]), path)
    for label in schema.labels:
        _require_no_nulls(label.name, fragment, partition, path)
    groups = []
    with reading(path):
        pieces = fragment.split_by_row_group()
    for piece in pieces:
        number = piece.row_groups[0].id
        rows = metadata.row_group(number).num_rows
        if rows:
            groups.append(_RowGroup(piece, partition, f"{path}, row group {number}", rows))
    return groups


def _require_no_nulls(
    name: str, fragment: pads.ParquetFileFragment, partition: Partition, path: str
) -> None:
    """Raise if a label has nulls, by the file's statistics or, without them, by reading it."""
    if name in partition.values:
        if partition.values[name] is None:
            raise InvalidArgument(f"{path}: the label {name!r}, a folder of the path, is null")
        return
    metadata = fragment.metadata
    names = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
    column = names.index(name)
    if metadata.schema.column(column).max_definition_level == 0:
        return
    for number in range(metadata.num_row_groups):
        statistics = metadata.row_group(number).column(column).statistics
        if statistics is not None and statistics.has_null_count:
            nulls = statistics.null_count
        else:
            with reading(f"{path}, row group {number}"):
                piece = fragment.subset(row_group_ids=[number])
                nulls = piece.to_table(columns=[name]).column(0).null_count
        if nulls:
            raise InvalidArgument(
                f"{path}, row group {number}: {nulls} of the labels in column {name!r} are null; "
                "a label must not be null"
            )
