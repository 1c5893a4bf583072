"""The Criteo click logs in their TSV layout: label, 13 integers, 26 hexadecimal hashes a line.

Layout: no header; fields between tabs; an empty field is a missing value. The hash of a categorical
value (8 hexadecimal digits in Criteo's releases, up to 16 here) is read as a number, which is the
key. Equal keys of different columns are different values: give each column a table of its own, or
features of one table will share rows.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from functools import partial

import pyarrow as pa
from pyarrow import csv as pacsv
from pyarrow import fs as pafs

from embery.data.block import Block
from embery.data.convert import block_of
from embery.data.files import PathLike, reading, resolve
from embery.data.keys import keys_of_hex, valid_of
from embery.data.pipeline import in_background
from embery.data.reading import SHUFFLE_ROWS, BlockDataset, Task
from embery.data.schema import Dense, Schema
from embery.errors import InvalidArgument

LABEL = "label"
INTEGERS = tuple(f"I{i}" for i in range(1, 14))
CATEGORIES = tuple(f"C{i}" for i in range(1, 27))
SUFFIXES = (".tsv", ".txt", ".gz")

_NUMBERS = (LABEL, *INTEGERS)
_FIELDS = pa.schema([(n, pa.int64()) for n in _NUMBERS] + [(n, pa.uint64()) for n in CATEGORIES])
_BLOCK_BYTES = 4 << 20
_BLOCKS_AHEAD = 2


def criteo_schema() -> Schema:
    """Return the schema of the click logs: log1p of I1..I13, and C1..C26, one feature each."""
    return Schema(
        label=LABEL,
        dense=[Dense(name, transform="log1p") for name in INTEGERS],
        sparse=CATEGORIES,
    )


class CriteoTSV(BlockDataset):
    """The rows of Criteo TSV files, plain or gzip-compressed (by their name's ending, .gz).

    Files are streamed: the number of rows is not known, resuming reads and drops what comes before,
    and a `start` beyond the end yields nothing. Shuffling draws the order of the files and shuffles
    within windows. A line that does not fit, or a missing label, is an error when its part of the
    file (about 4 MiB) is read.

    Args:
        paths: as in `Parquet`; of a folder, the files *.tsv, *.txt and *.gz.
        batch_size: rows of a batch.
        schema: some of the columns label, I1..I13 and C1..C26; all of them if None.
        shuffle: as in `Parquet`, with files in the place of row groups.
        shuffle_rows: as in `Parquet`.
        seed: as in `Parquet`.
        drop_last: as in `Parquet`.
        readers: threads that turn what was parsed into keys and numbers.
        filesystem: as in `Parquet`.

    Raises:
        InvalidArgument: an argument is out of its range, a file is missing, or the schema asks for
            a column that the layout does not have.
    """

    def __init__(
        self,
        paths: PathLike | Sequence[PathLike],
        *,
        batch_size: int,
        schema: Schema | None = None,
        shuffle: bool = False,
        shuffle_rows: int = SHUFFLE_ROWS,
        seed: int = 0,
        drop_last: bool = False,
        readers: int = 2,
        filesystem: pafs.FileSystem | None = None,
    ) -> None:
        super().__init__(
            schema=criteo_schema() if schema is None else schema,
            batch_size=batch_size,
            shuffle=shuffle,
            shuffle_rows=shuffle_rows,
            seed=seed,
            drop_last=drop_last,
            readers=readers,
        )
        self.schema.check(_FIELDS, "the Criteo TSV layout")
        self._filesystem, self._files = resolve(paths, filesystem=filesystem, suffixes=SUFFIXES)

    @property
    def piece_count(self) -> int:
        """Return how many files there are."""
        return len(self._files)

    def _read_piece(self, number: int) -> Iterator[Task]:
        yield from self._read_files([number], 0)

    def _read(self, epoch: int, first_row: int) -> Iterator[Task]:
        yield from self._read_files(self._order(len(self._files), epoch), first_row)

    def _read_files(self, numbers: Sequence[int], first_row: int) -> Iterator[Task]:
        skip = first_row
        for number in numbers:
            path = self._files[number]
            row = 0
            parsed = in_background(self._parse(path), depth=_BLOCKS_AHEAD)
            with closing(parsed):
                for records in parsed:
                    if skip < records.num_rows:
                        rest = records.slice(skip)
                        yield partial(_block, rest, self.schema, path, row + skip)
                    skip = max(0, skip - records.num_rows)
                    row += records.num_rows

    def _parse(self, path: str) -> Generator[pa.RecordBatch, None, None]:
        columns = self.schema.columns
        types = {name: pa.int64() if name in _NUMBERS else pa.string() for name in columns}
        with (
            reading(path),
            self._filesystem.open_input_stream(path, compression="detect") as stream,
            pacsv.open_csv(
                stream,
                read_options=pacsv.ReadOptions(column_names=_FIELDS.names, block_size=_BLOCK_BYTES),
                parse_options=pacsv.ParseOptions(delimiter="\t", quote_char=False),
                convert_options=pacsv.ConvertOptions(
                    column_types=types,
                    include_columns=columns,
                    null_values=[""],
                    strings_can_be_null=True,
                ),
            ) as reader,
        ):
            yield from reader


def _block(records: pa.RecordBatch, schema: Schema, path: str, first_row: int) -> Block:
    arrays = []
    for name, array in zip(records.schema.names, records.columns, strict=True):
        arrays.append(array if name in _NUMBERS else _hashes(array, name, path, first_row))
    numbers = pa.RecordBatch.from_arrays(arrays, names=records.schema.names)
    return block_of(numbers, schema, path, first_row=first_row)


def _hashes(array: pa.Array, name: str, path: str, first_row: int) -> pa.Array:
    try:
        keys = keys_of_hex(array)
    except InvalidArgument as error:
        raise InvalidArgument(
            f"{path}: column {name!r}, from row {first_row} on: {error}"
        ) from error
    valid = valid_of(array)
    return pa.array(keys, mask=None if valid is None else ~valid)
