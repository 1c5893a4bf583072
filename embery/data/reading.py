"""`BlockDataset`: what data sets that read blocks of rows share. Shuffling, batching, resuming.

An epoch is one stream of rows, cut into windows. Without shuffling a window is a batch. With it,
the source reads its pieces (row groups, files) in an order drawn for the epoch, a window is
`shuffle_rows` rows of that stream, and its rows are put into an order drawn for (seed, epoch,
window). All draws are pure functions of these numbers, so a batch depends neither on the threads
nor on where an iteration began: to resume, the stream is entered at the window of the first batch.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Generator, Iterator
from contextlib import closing

from embery.data.block import Block, concatenate
from embery.data.counter import permutation
from embery.data.dataset import Batch, Dataset, batch_of
from embery.data.pipeline import in_background, in_order
from embery.data.schema import Schema
from embery.errors import InvalidArgument
from embery.validation import require_int, require_seed

# Distinct streams of random numbers of one seed.
ORDER_STREAM = 1
WINDOW_STREAM = 2

BATCHES_AHEAD = 4
SHUFFLE_ROWS = 2**18

# Reads some rows, in a thread of the pool; the tasks of an epoch make up its stream.
Task = Callable[[], Block]


class BlockDataset(Dataset):
    """Base of the data sets here; see `Parquet` for the arguments."""

    def __init__(
        self,
        *,
        schema: Schema,
        batch_size: int,
        shuffle: bool,
        shuffle_rows: int,
        seed: int,
        drop_last: bool,
        readers: int,
    ) -> None:
        if not isinstance(schema, Schema):
            raise InvalidArgument(f"schema must be an embery.data.Schema, got {schema!r}")
        require_int("batch_size", batch_size, low=1, high=2**31 - 1)
        require_int("shuffle_rows", shuffle_rows, low=1, high=2**40)
        require_int("readers", readers, low=1, high=256)
        require_seed("seed", seed)
        self._schema = schema
        self._batch_size = batch_size
        self._seed = seed
        self._shuffle = shuffle
        self._drop_last = drop_last
        self._readers = readers
        # Whole batches, so that a batch never crosses windows.
        self._window_batches = -(-shuffle_rows // batch_size) if shuffle else 1

    @property
    def schema(self) -> Schema:
        """Return what the columns mean."""
        return self._schema

    @property
    def batch_size(self) -> int:
        """Return the rows of every batch but perhaps the last."""
        return self._batch_size

    @property
    def num_batches(self) -> int | None:
        """Return the batches of an epoch, or None where only reading would tell."""
        if self.num_rows is None:
            return None
        rest = 0 if self._drop_last else self._batch_size - 1
        return (self.num_rows + rest) // self._batch_size

    def batches(self, *, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """Return the batches of an epoch from number `start` on; see `Dataset.batches`."""
        self.check_position(epoch=epoch, start=start)
        return in_background(self._batches(epoch, start), depth=BATCHES_AHEAD)

    @abstractmethod
    def _read(self, epoch: int, first_row: int) -> Iterator[Task]:
        """Yield tasks whose blocks are the rows of the epoch's stream from `first_row` on."""

    def _order(self, count: int, epoch: int) -> list[int]:
        """Return the order in which to read `count` pieces in this epoch."""
        if not self._shuffle:
            return list(range(count))
        order: list[int] = permutation(count, self._seed, ORDER_STREAM, epoch).tolist()
        return order

    def _batches(self, epoch: int, start: int) -> Generator[Batch, None, None]:
        size = self._batch_size
        window_rows = self._window_batches * size
        first_window = start // self._window_batches
        tasks = self._read(epoch, first_window * window_rows)
        with closing(in_order(tasks, threads=self._readers)) as blocks:
            for number, window in enumerate(_windows(blocks, window_rows), first_window):
                order = None
                if self._shuffle:
                    order = permutation(len(window), self._seed, WINDOW_STREAM, epoch, number)
                for begin in range(0, len(window), size):
                    index = number * self._window_batches + begin // size
                    end = min(begin + size, len(window))
                    if index < start or (self._drop_last and end - begin < size):
                        continue
                    rows = (
                        window.slice(begin, end)
                        if order is None
                        else (window.take(order[begin:end]))
                    )
                    yield batch_of(rows, self._schema, index)


def _windows(blocks: Iterator[Block], rows: int) -> Iterator[Block]:
    """Cut a stream of blocks anew into blocks of `rows` rows; the last may be shorter."""
    held: list[Block] = []
    missing = rows
    for block in blocks:
        begin = 0
        while begin < len(block):
            end = min(begin + missing, len(block))
            held.append(block.slice(begin, end))
            missing -= end - begin
            begin = end
            if missing == 0:
                yield concatenate(held)
                held, missing = [], rows
    if held:
        yield concatenate(held)
