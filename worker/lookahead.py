"""Look-ahead: the rows of the next batches are fetched while the model computes this one.

`prefetch` is exact: what the model sees, and every trace left in the store, is what the plain loop
gives. A batch is *peeked* in a background thread, which leaves no trace. When its turn comes, in
the forward pass, a training pull reads again what was absent then, what was pushed since, and all
of a table from which rows have gone since (docs/design/embedded.md). The idea of reading ahead what
a batch will need is BagPipe's (Agarwal et al., SOSP 2023). Where several workers push, only the
plan of a batch is made ahead.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embery._native import BatchPlan
from embery.data.pipeline import in_background
from embery.errors import InvalidArgument
from embery.jagged import KeyedJaggedTensor
from embery.table import TTL
from embery.validation import require_int
from embery.worker.batches import closing_iterator, keyed_jagged_in
from embery.worker.embedding import EmbeddingModule, Mode, ReadAhead, pull_rows
from embery.worker.group import WorkerGroup
from embery.worker.recency import Moment, PushHistory

Batch = TypeVar("Batch")
DEPTH_MAX = 1024


class Reader(Protocol):
    """How rows are read ahead of their batch."""

    def begin_batch(self, number: int) -> None:
        """Wait until batch `number`, counted from 0, may be read."""
        ...

    def read(self, module: EmbeddingModule, kjt: KeyedJaggedTensor) -> ReadAhead:
        """Read the rows that `module` needs of `kjt`."""
        ...

    def close(self) -> None:
        """End waiting: nothing more will be read."""
        ...


def prefetch(
    loader: Iterable[Batch],
    embedding: EmbeddingModule | Sequence[EmbeddingModule],
    *,
    depth: int = 4,
) -> Generator[Batch, None, None]:
    """Yield the batches of `loader`, their rows fetched ahead; the results are those of the loop.

        for batch in em.prefetch(loader, emb, depth=4):
            loss = loss_fn(model(batch), batch.label)
            loss.backward()
            dense_optimizer.step(); emb.step()

    A module recognises a fetched batch by the very KeyedJaggedTensor object it is called with; with
    any other it pulls as always. `iter(loader)` runs in the caller's thread, the rest of the loader
    in a background thread: it must not draw from random generators that the model shares. Leaving
    the loop, or closing the generator, ends the thread; an exception of the loader is raised in its
    place.

    Args:
        loader: yields batches with a KeyedJaggedTensor in them: the batch itself, an attribute of
            it (`em.data.Batch.sparse`), or an element of a tuple, list or dict.
        embedding: the module, or modules, that the model calls with it.
        depth: batches to hold ready, 1 to 1024.

    Raises:
        InvalidArgument: at once if an argument is wrong; in the place of a batch if it has no
            KeyedJaggedTensor with the features of a module.
    """
    modules: list[Any] = list(embedding) if isinstance(embedding, Sequence) else [embedding]
    if not modules or not all(isinstance(module, EmbeddingModule) for module in modules):
        raise InvalidArgument(
            "prefetch: embedding must be an EmbeddingBagCollection, an EmbeddingCollection or a "
            f"list of them, got {embedding!r}"
        )
    require_int("prefetch: depth", depth, low=1, high=DEPTH_MAX)
    return _prefetch_exactly(loader, modules, depth)


def _prefetch_exactly(
    loader: Iterable[Batch], modules: Sequence[EmbeddingModule], depth: int
) -> Generator[Batch, None, None]:
    if not WorkerGroup.of_run().alone:
        # The pushes of the other workers are not known here: their rows could not be told stale.
        yield from read_ahead(loader, modules, PlanReader(), depth=depth)
        return
    with ExitStack() as watching:
        histories: dict[int, PushHistory] = {}
        for module in modules:
            store = module.store
            if id(store) not in histories:
                histories[id(store)] = history = PushHistory()
                store.watch(history)
                watching.callback(store.unwatch, history)
        yield from read_ahead(loader, modules, PeekReader(histories), depth=depth)


def read_ahead(
    loader: Iterable[Batch], modules: Sequence[EmbeddingModule], reader: Reader, *, depth: int
) -> Generator[Batch, None, None]:
    """Yield the batches of `loader` while `reader` reads for the next `depth` of them."""
    # In this thread, where the plain loop calls it too: a loader may seed itself here.
    iterator = iter(loader)
    ready = in_background(_read_batches(iterator, modules, reader), depth=depth)
    try:
        for batch, parts in ready:
            for module, kjt, ahead in parts:
                module.read_ahead(kjt, ahead)
            try:
                yield batch
            finally:
                for module, kjt, _ in parts:
                    module.forget_ahead(kjt)
    finally:
        reader.close()
        ready.close()


_Part = tuple[EmbeddingModule, Any, ReadAhead]


def _read_batches(
    iterator: Iterator[Batch], modules: Sequence[EmbeddingModule], reader: Reader
) -> Generator[tuple[Batch, list[_Part]], None, None]:
    with closing_iterator(iterator):
        for number, batch in enumerate(iterator):
            reader.begin_batch(number)
            yield batch, _read_parts(batch, modules, reader)


def _read_parts(batch: object, modules: Sequence[EmbeddingModule], reader: Reader) -> list[_Part]:
    candidates = keyed_jagged_in(batch)
    parts: list[_Part] = []
    for module in modules:
        wanted = {feature.name for feature in module.features}
        mine = [kjt for kjt in candidates if wanted <= set(kjt.keys())]
        if not mine:
            seen = [list(kjt.keys()) for kjt in candidates]
            raise InvalidArgument(
                f"look-ahead: no KeyedJaggedTensor with the features {sorted(wanted)} in the batch "
                f"of type {type(batch).__name__}; those in it have {seen}"
            )
        parts += [(module, kjt, reader.read(module, KeyedJaggedTensor.of(kjt))) for kjt in mine]
    return parts


class PlanReader:
    """Plans ahead, and reads nothing before its turn."""

    def begin_batch(self, number: int) -> None:
        """Wait for nothing."""

    def close(self) -> None:
        """Do nothing: planning never waits."""

    def read(self, module: EmbeddingModule, kjt: KeyedJaggedTensor) -> ReadAhead:
        """Plan what to read."""
        return PlannedRows(module, module.plan(kjt))


@dataclass(frozen=True, slots=True)
class PlannedRows:
    """Rows that are pulled when their turn comes."""

    module: EmbeddingModule
    plan: BatchPlan

    def take(self, mode: Mode) -> Tensor:
        """Pull the rows."""
        return pull_rows(self.module, self.plan, mode)


class PeekReader:
    """Reads without a trace; `histories` has the pushes of each store, by its id."""

    def __init__(self, histories: dict[int, PushHistory]) -> None:
        self._histories = histories

    def begin_batch(self, number: int) -> None:
        """Wait for nothing: what is read too early is read again."""

    def close(self) -> None:
        """Do nothing: reading never waits."""

    def read(self, module: EmbeddingModule, kjt: KeyedJaggedTensor) -> ReadAhead:
        """Peek at the rows, noting the moment before."""
        plan = module.plan(kjt)
        history = self._histories[id(module.store)]
        moment, departures = history.now(), departures_of(module)
        rows = torch.empty(plan.float_count, dtype=torch.float32)
        absent = np.zeros(plan.row_count, np.uint8)
        module.store.peek_batch(
            module.table_names, plan.keys, plan.split(rows.numpy()), plan.split_flags(absent)
        )
        return PeekedRows(module, plan, rows, absent, history, moment, departures)


def departures_of(module: EmbeddingModule) -> list[tuple[int, int]]:
    """Return, for each table of `module`, what changes whenever a row of it may have gone.

    A row goes by deletion, or by the time when its time-to-live ends: from then on it reads as
    absent, deleted or not.
    """
    store, now_s = module.store, module.store.now_s()
    return [
        (store.deletions(name), now_s if isinstance(module.tables[name].eviction, TTL) else 0)
        for name in module.table_names
    ]


@dataclass(frozen=True, slots=True)
class PeekedRows:
    """Rows as a peek at `moment` read them, when `departures_of` the module was `departures`."""

    module: EmbeddingModule
    plan: BatchPlan
    rows: Tensor
    absent: NDArray[np.uint8]
    history: PushHistory
    moment: Moment
    departures: list[tuple[int, int]]

    def take(self, mode: Mode) -> Tensor:
        """Pull again what is out of date; return all rows.

        Every table is pulled from, if only for no keys: a training pull also evicts.
        """
        module = self.module
        gone = [
            now != then for now, then in zip(departures_of(module), self.departures, strict=True)
        ]
        stale = self.history.find_stale(
            self.plan, module.table_names, self.absent, since=self.moment, distrusted=gone
        )
        fresh = np.empty(stale.float_count, np.float32)
        module.store.pull_batch(module.table_names, stale.keys, stale.split(fresh), mode=mode)
        stale.patch(fresh, self.rows.numpy())
        return self.rows
