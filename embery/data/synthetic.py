"""The synthetic click log as a data set, as Parquet files, and its optimum.

    python -m embery.data.synthetic --rows 1000000 --out DIR

writes DIR/train and DIR/test and prints what a perfect model would reach on the test rows.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from embery.data.block import Block
from embery.data.clicklog import ClickLog, sigmoid
from embery.data.convert import block_of
from embery.data.meaning import Knowledge, Sightings
from embery.data.reading import SHUFFLE_ROWS, BlockDataset, Task
from embery.data.traffic import ITEM
from embery.errors import EmberyError
from embery.observability.progress import Advance, progress
from embery.validation import require_int

F64 = NDArray[np.float64]

# An id must be seen this often in training before its meaning can be learnt.
SIGHTINGS_MIN = 20
_PIECE_ROWS = 2**16
_ROWS_MAX = 2**62


class Synthetic(BlockDataset):
    """Rows of a synthetic click log, made as they are read: the same as from the written files.

    Args:
        rows: how many.
        batch_size: rows of a batch.
        offset: number of the first row; rows beyond those of training make a test set.
        log: the definition of the log.
        shuffle: as in `Parquet`, with pieces of 65536 rows in the place of row groups. The rows are
            independent of each other, so this matters only from epoch to epoch.
        shuffle_rows: as in `Parquet`.
        seed: of the shuffling; that of the rows is the log's.
        drop_last: as in `Parquet`.
        readers: threads that make rows.

    Raises:
        InvalidArgument: an argument is out of its range.
    """

    def __init__(
        self,
        rows: int,
        *,
        batch_size: int,
        offset: int = 0,
        log: ClickLog | None = None,
        shuffle: bool = False,
        shuffle_rows: int = SHUFFLE_ROWS,
        seed: int = 0,
        drop_last: bool = False,
        readers: int = 2,
    ) -> None:
        self._log = ClickLog() if log is None else log
        super().__init__(
            schema=self._log.schema,
            batch_size=batch_size,
            shuffle=shuffle,
            shuffle_rows=shuffle_rows,
            seed=seed,
            drop_last=drop_last,
            readers=readers,
        )
        require_int("rows", rows, low=0, high=_ROWS_MAX)
        require_int("offset", offset, low=0, high=_ROWS_MAX)
        self._rows = range(offset, offset + rows)

    @property
    def log(self) -> ClickLog:
        """Return the definition of the log."""
        return self._log

    @property
    def rows(self) -> range:
        """Return the numbers of the rows: what `optimum` takes."""
        return self._rows

    @property
    def num_rows(self) -> int:
        """Return the rows of an epoch."""
        return len(self._rows)

    @property
    def piece_count(self) -> int:
        """Return how many pieces of 65536 rows there are, the last perhaps of fewer."""
        return len(_pieces(self._rows))

    def _read_piece(self, number: int) -> Iterator[Task]:
        yield partial(self._block, _pieces(self._rows)[number])

    def _read(self, epoch: int, first_row: int) -> Iterator[Task]:
        skip = first_row
        pieces = _pieces(self._rows)
        for number in self._order(len(pieces), epoch):
            piece = pieces[number]
            if skip < len(piece):
                yield partial(self._block, piece[skip:])
            skip = max(0, skip - len(piece))

    def _block(self, rows: range) -> Block:
        records = self._log.records(rows.start, rows.stop)
        return block_of(records, self.schema, "synthetic click log", first_row=rows.start)


@dataclass(frozen=True, slots=True)
class Optimum:
    """What can be reached on some test rows, in expectation over their clicks.

    Args:
        auc, logloss: by the true probabilities.
        learnable_auc, learnable_logloss: by probabilities in which an id counts for nothing unless
            the training rows show it at least 20 times (an item: on its own or in a history). Where
            meanings drift, they are known as of the end of training, and count as far as they still
            hold; a model that goes on learning on the test rows can do better.
        ctr: mean of the true probabilities.
    """

    auc: float
    logloss: float
    learnable_auc: float
    learnable_logloss: float
    ctr: float


def optimum(log: ClickLog, *, train: range, test: range) -> Optimum:
    """Return what a model trained on the rows `train` can reach on the rows `test`, at best."""
    knowledge = _knowledge(log, train)
    truth, learnable = [], []
    for piece in _pieces(test):
        rows = log.rows(piece.start, piece.stop)
        truth.append(rows.probability)
        learnable.append(sigmoid(log.logit(rows, knowledge)))
    p, q = np.concatenate(truth), np.concatenate(learnable)
    return Optimum(
        auc=expected_auc(p, p),
        logloss=expected_logloss(p, p),
        learnable_auc=expected_auc(q, p),
        learnable_logloss=expected_logloss(q, p),
        ctr=float(p.mean()),
    )


def expected_auc(score: F64, probability: F64) -> float:
    """Return the expected AUC of a score, given the probability of a click of each row.

    That is the sum over ordered pairs (i, j), i != j, of p_i (1 - p_j) where score i is above score
    j, and half of it where they are equal, divided by the same sum over all pairs. NaN for fewer
    than two rows.
    """
    _, group = np.unique(score, return_inverse=True)
    click = np.bincount(group, weights=probability)
    skip = np.bincount(group, weights=1.0 - probability)
    own = np.bincount(group, weights=probability * (1.0 - probability))
    below = np.cumsum(skip) - skip
    total = click.sum() * skip.sum() - own.sum()
    wins = (click * below).sum() + 0.5 * (click * skip - own).sum()
    return float(wins / total) if total > 0 else float("nan")


def expected_logloss(prediction: F64, probability: F64) -> float:
    """Return the expected logloss of predictions in (0, 1), given the true probabilities."""
    losses = -probability * np.log(prediction) - (1.0 - probability) * np.log1p(-prediction)
    return float(losses.mean())


def write_parquet(
    log: ClickLog,
    rows: range,
    folder: Path,
    *,
    file_rows: int = 2**20,
    advance: Advance | None = None,
) -> list[Path]:
    """Write rows of the log as Parquet files part-00000.parquet and so on; return their paths.

    Existing files of these names are replaced. The rows depend on nothing but the arguments.

    Args:
        log: the definition of the log.
        rows: the numbers of the rows.
        folder: where; made if it does not exist.
        file_rows: rows of a file, but for the last.
        advance: called with the number of rows just written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, begin in enumerate(range(rows.start, rows.stop, file_rows)):
        path = folder / f"part-{number:05}.parquet"
        pieces = _pieces(range(begin, min(begin + file_rows, rows.stop)))
        with pq.ParquetWriter(path, log.records(0, 0).schema, compression="zstd") as writer:
            for piece in pieces:
                table = pa.Table.from_batches([log.records(piece.start, piece.stop)])
                writer.write_table(table, row_group_size=_PIECE_ROWS)
                if advance is not None:
                    advance(len(piece))
        paths.append(path)
    return paths


def _knowledge(log: ClickLog, train: range) -> Knowledge:
    sightings = [Sightings() for _ in log.cardinalities]
    for piece in _pieces(train):
        draws = log.draws(piece.start, piece.stop)
        for seen, ids in zip(sightings, draws.ids, strict=True):
            seen.add(ids)
        if draws.history is not None:
            sightings[ITEM].add(draws.history.values)
    return Knowledge(tuple(seen.at_least(SIGHTINGS_MIN) for seen in sightings), train.stop)


def _pieces(rows: range) -> list[range]:
    return [rows[i : i + _PIECE_ROWS] for i in range(0, len(rows), _PIECE_ROWS)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a log as Parquet and print its optimum; return the exit code."""
    plain = ClickLog()
    parser = argparse.ArgumentParser(
        prog="python -m embery.data.synthetic",
        description="Write a synthetic click log as Parquet and print what can be reached on it.",
        epilog="example: python -m embery.data.synthetic --rows 1000000 --out clicks",
    )
    parser.add_argument("--rows", type=int, required=True, help="training rows, in OUT/train")
    parser.add_argument("--test-rows", type=int, default=100_000, help="rows in OUT/test")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--seed", type=int, default=plain.seed, help="seed of the log")
    parser.add_argument("--ctr", type=float, default=plain.ctr, help="share of clicks")
    parser.add_argument("--id-life-rows", type=int, help="rows until an id is replaced (never)")
    parser.add_argument("--drift-rows", type=int, help="period in which meanings turn (never)")
    parser.add_argument("--history", type=int, default=plain.history, help="items of a history")
    parser.add_argument("--json", action="store_true", help="print the optimum as JSON")
    options = parser.parse_args(arguments)
    train = range(options.rows)
    test = range(options.rows, options.rows + options.test_rows)
    try:
        require_int("--rows", options.rows, low=1, high=_ROWS_MAX)
        require_int("--test-rows", options.test_rows, low=1, high=_ROWS_MAX)
        log = ClickLog(
            seed=options.seed,
            ctr=options.ctr,
            id_life_rows=options.id_life_rows,
            drift_rows=options.drift_rows,
            history=options.history,
        )
        with progress("writing", total=len(train) + len(test), unit="rows") as advance:
            write_parquet(log, train, options.out / "train", advance=advance)
            write_parquet(log, test, options.out / "test", advance=advance)
        best = optimum(log, train=train, test=test)
    except (EmberyError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(asdict(best)))
        return 0
    print(f"{options.out}: {len(train)} training rows, {len(test)} test rows, CTR {best.ctr:.4f}")
    print(f"best possible   AUC {best.auc:.4f}  logloss {best.logloss:.4f}")
    print(f"learnable       AUC {best.learnable_auc:.4f}  logloss {best.learnable_logloss:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
