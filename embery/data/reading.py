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
PIECE_STREAM = 3

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

    def blocks(self) -> Iterator[Block]:
        """Return the rows of epoch 0 from the first to the last, as NumPy columns; needs no torch.

        Raises:
            InvalidArgument: from `next()`, the data are damaged or do not fit the schema.
        """
        with closing(in_order(self._read(0, 0), threads=self._readers)) as blocks:
            yield from _windows(blocks, self._batch_size)

    # -- pieces -----------------------------------------------------------------------------------

    @property
    @abstractmethod
    def piece_count(self) -> int:
        """Return how many pieces (row groups, files) make up the data."""

    @abstractmethod
    def _read_piece(self, number: int) -> Iterator[Task]:
        """Yield tasks whose blocks are the rows of a piece, counted as the data lie."""

    @property
    def plan(self) -> str:
        """Return in words what is read and how it is cut: alike for equal data sets."""
        rows = "" if self.num_rows is None else f"{self.num_rows} rows, "
        mixed = f"shuffled in {self._window_batches} batches" if self._shuffle else "in order"
        return (
            f"{type(self).__name__} ({self.piece_count} pieces, {rows}batches of "
            f"{self._batch_size}, seed {self._seed}, {mixed}, drop_last {self._drop_last})"
        )

    def piece(self, number: int, *, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """Return the batches of one piece from its batch `start` on.

        No batch crosses pieces, so that whoever reads one needs no other. They are the same ones,
        bit for bit, whoever reads them: pure functions of (seed, epoch, piece).

        Args:
            number: of the piece in the order of the epoch, from 0 to `piece_count` - 1.
            epoch, start: as in `batches`; `Batch.index` counts from the beginning of the piece.

        Raises:
            InvalidArgument: an argument is out of its range, or, from `next()`, the data are
                damaged.
        """
        require_int("piece", number, low=0, high=self.piece_count - 1)
        require_int("epoch", epoch, low=0, high=2**63 - 1)
        require_int("start", start, low=0, high=2**63 - 1)
        source = self._order(self.piece_count, epoch)[number]
        draws = (PIECE_STREAM, epoch, source)
        batches = self._cut(self._read_piece(source), 0, start, draws)
        return in_background(batches, depth=BATCHES_AHEAD)

    # -- batches ----------------------------------------------------------------------------------

    def _order(self, count: int, epoch: int) -> list[int]:
        """Return the order in which to read `count` pieces in this epoch."""
        if not self._shuffle:
            return list(range(count))
        order: list[int] = permutation(count, self._seed, ORDER_STREAM, epoch).tolist()
        return order

    def _batches(self, epoch: int, start: int) -> Generator[Batch, None, None]:
        first_window = start // self._window_batches
        tasks = self._read(epoch, first_window * self._window_batches * self._batch_size)
        yield from self._cut(tasks, first_window, start, (WINDOW_STREAM, epoch))

    def _cut(
        self, tasks: Iterator[Task], first_window: int, start: int, draws: tuple[int, ...]
    ) -> Generator[Batch, None, None]:
        """Yield batches from number `start` on of rows that begin with a window.

        Args:
            tasks: what reads the rows.
            first_window: number of the window that they begin with.
            draws: of the order of the rows, beside the seed and the window's number.
        """
        size = self._batch_size
        window_rows = self._window_batches * size
        with closing(in_order(tasks, threads=self._readers)) as blocks:
            for number, window in enumerate(_windows(blocks, window_rows), first_window):
                order = None
                if self._shuffle:
                    order = permutation(len(window), self._seed, *draws, number)
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
