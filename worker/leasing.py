"""Batches of the pieces of a data set that a worker has leases of.

The workers of a run share the pieces (row groups, files) out among themselves as they go: each
reads its own, and need not take as many batches as another. A piece whose worker is gone is read on
by one that is there, after the batches that were committed. One lease is held ahead, so that
training goes on while the coordinator is away for a moment.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from embery.data import Batch
from embery.data.reading import BlockDataset
from embery.errors import DeadlineExceeded, EmberyError, InvalidArgument, Unavailable
from embery.rpc.readings import LEASES_MAX, BegunPiece, Holding, Lease, LeaseReport, Outcome
from embery.store import BatchIdentity, Store
from embery.worker.batches import close_iterator
from embery.worker.group import TIMEOUT_S, WorkerGroup

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")

log = logging.getLogger("embery.leases")

# The lease that is read, and the one after it.
LEASES_HELD = 2
# How far a piece is, is told so often at least; the end of a piece at once.
REPORT_SECONDS = 1.0
# So long the coordinator may be away when a lease is needed.
COORDINATOR_SECONDS = 60.0
_WAIT_SECONDS = 0.5


@dataclass(slots=True)
class _Held:
    """A lease as its worker sees it; `count` is set once the piece's last batch was read."""

    lease: Lease
    done: int
    count: int | None = None

    @property
    def key(self) -> tuple[int, int]:
        return self.lease.piece, self.lease.token

    @property
    def finished(self) -> bool:
        return self.count is not None and self.done >= self.count

    def report(self, outcome: Outcome, error: str = "") -> LeaseReport:
        """Return how far it is; `outcome` is passed over where it is finished."""
        outcome = "finished" if self.finished else outcome
        return LeaseReport(self.lease.piece, self.lease.token, self.done, outcome, error)


class _Opened:
    """A piece whose first batch, and with it the rows around it, a thread of `pool` reads at once.

    So the next piece is ready when the one before it ends.
    """

    def __init__(self, pool: ThreadPoolExecutor, batches: Iterator[Batch]) -> None:
        self._batches = batches
        self._first: Future[Batch | None] | None = pool.submit(next, batches, None)

    def next(self) -> Batch | None:
        """Return the next batch, None at the end; raise what went wrong in reading it."""
        first, self._first = self._first, None
        return next(self._batches, None) if first is None else first.result()

    def close(self) -> None:
        """Stop reading."""
        if self._first is not None and not self._first.cancel():
            wait([self._first])
        close_iterator(self._batches)


class LeasedBatches:
    """An iterable of the batches of this worker's leases; a context manager that gives them back.

        with LeasedBatches.of_run(data, store, epoch=epoch) as batches:
            for batch in em.prefetch(batches, model.emb):
                loss_fn(model(batch), batch.label).backward()
                dense_optimizer.step(); emb.step(batches.oldest)
                batches.commit()

    It ends when all pieces are finished, whoever read them. One thread iterates, once; `commit` may
    be called in another.

    Args:
        dataset: a `Parquet`, `CriteoTSV` or `Synthetic`, the same in all workers.
        store: on a cluster.
        reading: name of this pass over the data, the same in all workers and never used before.
        epoch: of which the order is drawn.
        begun: pieces that were read before, if only in part: what `state` returned.
        idle: called, in the thread that iterates, when there is no lease to read and no batch that
            is not committed.

    Raises:
        InvalidArgument: the data set has no pieces, the store no coordinator, or another worker
            reads other data by this name.
    """

    def __init__(
        self,
        dataset: Any,
        store: Store,
        *,
        reading: str,
        epoch: int = 0,
        begun: Sequence[BegunPiece] = (),
        idle: Callable[[], None] | None = None,
    ) -> None:
        require_pieces(dataset)
        membership = store.membership
        if membership is None:
            raise InvalidArgument(
                f"leases are given out by the coordinator of a cluster, and this store is "
                f"{store.url!r}; run it by embery run, or iterate over the data set itself"
            )
        self._dataset: BlockDataset = dataset
        self._membership = membership
        self._reading, self._epoch, self._idle = reading, epoch, idle
        # One call at a time, or a reply might undo what a later one said.
        self._telling = threading.Lock()
        self._changed = threading.Condition()
        # Guarded by _changed.
        self._held: dict[tuple[int, int], _Held] = {}
        self._waiting: deque[_Held] = deque()
        self._uncommitted: deque[_Held] = deque()
        self._ended = False
        # When to report next, and whether the coordinator could not be reached last.
        self._due_s, self._away = 0.0, False
        # Whether the reading was ended, by whatever worker, though pieces are left.
        self.stopped = False
        self._open(begun)

    @staticmethod
    def of_run(dataset: Any, store: Store, *, epoch: int = 0) -> LeasedBatches:
        """Share an epoch out among the workers of the run; all of them must call it."""
        name = WorkerGroup.of_run().broadcast_text(uuid.uuid4().hex)
        return LeasedBatches(dataset, store, reading=f"{name}/{epoch}", epoch=epoch)

    # -- reading ----------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Batch]:
        """Yield batches until all pieces are finished, or `end` or `stop` was called.

        Raises:
            EmberyError: a piece failed repeatedly, or the coordinator is away for too long.
        """
        opened: dict[tuple[int, int], _Opened] = {}
        with ThreadPoolExecutor(1, thread_name_prefix="embery-lease-read") as pool:

            def open_piece(held: _Held) -> _Opened:
                piece, done = held.lease.piece, held.lease.done
                return _Opened(pool, self._dataset.piece(piece, epoch=self._epoch, start=done))

            def open_following() -> None:
                with self._changed:
                    following = self._waiting[0] if self._waiting else None
                if following is not None and following.key not in opened:
                    opened[following.key] = open_piece(following)

            try:
                while (held := self._next()) is not None:
                    batches = opened.pop(held.key, None) or open_piece(held)
                    yield from self._read(held, batches, open_following)
            finally:
                for unread in opened.values():
                    unread.close()

    def _read(
        self, held: _Held, batches: _Opened, open_following: Callable[[], None]
    ) -> Iterator[Batch]:
        lease = held.lease
        count = lease.done
        with closing(batches):
            while True:
                try:
                    batch = batches.next()
                except Exception as error:
                    # Another worker may fare better; the coordinator counts how often it is tried.
                    log.warning("piece %d of the data failed: %s", lease.piece, error)
                    self._give_up(held, f"{type(error).__name__}: {error}")
                    return
                if batch is None:
                    break
                self._tell_if_due()
                open_following()
                if not self._take(held):
                    return
                count += 1
                yield batch
        with self._changed:
            held.count = count

    def _take(self, held: _Held) -> bool:
        """Note that a batch goes out, unless its lease is not in force any more."""
        with self._changed:
            if self._ended or held.key not in self._held:
                return False
            self._uncommitted.append(held)
            return True

    def _next(self) -> _Held | None:
        """Return the next lease; None if there will be none."""
        since_s = time.monotonic()
        while True:
            with self._changed:
                if self._ended or self._waiting:
                    return None if self._ended else self._waiting.popleft()
                # With a lease in hand the coordinator need not be asked to wait: commits come here.
                wait_s = 0.0 if self._held else _WAIT_SECONDS
                idle = not self._uncommitted
            if idle and self._idle is not None:
                self._idle()
            news = self._has_news
            try:
                self._tell(wait_s=wait_s)
            except (Unavailable, DeadlineExceeded):
                if time.monotonic() - since_s > COORDINATOR_SECONDS:
                    raise
                wait_s, news = 0.0, self._has_ended
            with self._changed:
                if wait_s == 0.0:
                    self._changed.wait_for(news, _WAIT_SECONDS)
                if self._uncommitted and time.monotonic() - since_s > TIMEOUT_S:
                    raise DeadlineExceeded(
                        f"{len(self._uncommitted)} batches were taken and not committed within "
                        f"{TIMEOUT_S} s; call commit() after each step"
                    )

    def _has_ended(self) -> bool:
        return self._ended

    def _has_news(self) -> bool:
        finished = any(held.finished for held in self._held.values())
        return self._ended or bool(self._waiting) or finished

    # -- telling ----------------------------------------------------------------------------------

    def commit(self) -> None:
        """Say that the pushes of the oldest batch that was taken are applied."""
        with self._changed:
            if not self._uncommitted:
                raise InvalidArgument("commit: every batch that was taken is committed already")
            held = self._uncommitted.popleft()
            held.done += 1
            if held.finished or not self._uncommitted:
                self._changed.notify_all()

    @property
    def oldest(self) -> BatchIdentity:
        """Return which batch is the oldest that was taken and not committed: the next to push.

        Raises:
            InvalidArgument: there is none.
        """
        with self._changed:
            if not self._uncommitted:
                raise InvalidArgument("oldest: every batch that was taken is committed already")
            held = self._uncommitted[0]
            return BatchIdentity(held.lease.number, held.lease.token, held.done + 1)

    def end(self) -> None:
        """Take no more batches in this worker; what was taken can still be committed."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def stop(self) -> None:
        """End the reading for all workers, each after the batches that it has taken."""
        with self._changed:
            self.stopped = True
        self._tell(wait_s=0.0)

    def close(self) -> None:
        """Give back what is not finished: who has it next goes on after the last commit."""
        self.end()
        patiently(lambda: self._tell(wait_s=0.0, outcome="returned"))

    def state(self) -> list[BegunPiece]:
        """Return the pieces that are begun or finished, of all workers: what is to be resumed."""
        return self._open(())

    def _open(self, begun: Sequence[BegunPiece]) -> list[BegunPiece]:
        dataset = self._dataset
        return patiently(
            lambda: self._membership.open_reading(
                self._reading, plan=dataset.plan, pieces=dataset.piece_count, begun=begun
            )
        )

    def _tell_if_due(self) -> None:
        with self._changed:
            finished = any(held.finished for held in self._held.values())
            due = time.monotonic() > self._due_s or (finished and not self._away)
        if due:
            try:
                self._tell(wait_s=0.0)
            except (Unavailable, DeadlineExceeded) as error:
                log.info("leases go on without the coordinator: %s", error)
                with self._changed:
                    self._due_s, self._away = time.monotonic() + REPORT_SECONDS, True

    def _tell(self, *, wait_s: float, outcome: Outcome = "held") -> None:
        """Report on all leases, `outcome` of those that are not finished, and ask for more."""
        with self._telling:
            with self._changed:
                reports = [held.report(outcome) for held in self._held.values()]
                # Those that are read, and wait for their commits, must not stop the reading.
                read = sum(h.count is not None and not h.finished for h in self._held.values())
                want = 0 if self._ended else min(LEASES_HELD + read, LEASES_MAX)
            if reports or want or self.stopped:
                self._learn(
                    self._membership.hold_leases(
                        self._reading, want=want, reports=reports, wait_s=wait_s, stop=self.stopped
                    )
                )

    def _give_up(self, held: _Held, error: str) -> None:
        with self._telling:
            with self._changed:
                self._held.pop(held.key, None)
                report = held.report("failed", error)
            self._learn(
                self._membership.hold_leases(self._reading, want=LEASES_HELD, reports=[report])
            )

    def _learn(self, holding: Holding) -> None:
        if holding.error:
            raise EmberyError(holding.error)
        with self._changed:
            self._due_s, self._away = time.monotonic() + REPORT_SECONDS, False
            found = {(lease.piece, lease.token): lease for lease in holding.leases}
            for key in self._held.keys() - found.keys():
                held = self._held.pop(key)
                if not (held.finished or self._ended):
                    raise EmberyError(
                        f"the lease of piece {held.lease.piece} was given to another worker, as "
                        "this one was not heard of for too long; what it pushed counts once, and "
                        "it must end now"
                    )
            self._waiting = deque(held for held in self._waiting if held.key in found)
            for key in sorted(found.keys() - self._held.keys()):
                self._held[key] = held = _Held(found[key], found[key].done)
                self._waiting.append(held)
            if holding.state != "open":
                self._ended = True
                self.stopped = self.stopped or holding.state == "stopped"
            self._changed.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
            return
        self.end()
        try:
            self._tell(wait_s=0.0, outcome="returned")
        except EmberyError as problem:
            # The leases end with this worker, then; what went wrong before is what matters.
            log.info("leases were not given back: %s", problem)


def patiently(call: Callable[[], T]) -> T:
    """Return what `call` returns, tried again while the coordinator is away for a moment."""
    deadline = time.monotonic() + COORDINATOR_SECONDS
    pause = threading.Event()
    while True:
        try:
            return call()
        except (Unavailable, DeadlineExceeded):
            if time.monotonic() > deadline:
                raise
            pause.wait(_WAIT_SECONDS)


def require_pieces(dataset: Any) -> None:
    """Raise `InvalidArgument` unless `dataset` consists of pieces."""
    if not isinstance(dataset, BlockDataset):
        raise InvalidArgument(
            "several workers that do not wait for each other share out the pieces of a data set: "
            f"em.data.Parquet, CriteoTSV or Synthetic; got {type(dataset).__name__}"
        )
