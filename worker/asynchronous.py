"""A run of `Trainer.fit` whose workers do not wait for each other at every step.

Each worker reads pieces of the data that it has leases of, pushes the gradients of its batches, of
dense parameters too, and is held back only by the bound of staleness. Workers meet where they have
to agree: at the end of an epoch, for a checkpoint, and to stop. Between two such meetings is a
round of reading, and what is left of an epoch's pieces goes into the next one.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from embery.data import Batch
from embery.data.reading import BlockDataset
from embery.errors import InvalidArgument
from embery.rpc.client import GroupGrant
from embery.rpc.readings import BegunPiece
from embery.worker.batches import closing_iterator
from embery.worker.bounded import BoundedReader, PushQueue
from embery.worker.clock import BatchClock
from embery.worker.fit_options import FitOptions
from embery.worker.fitting import FitRun, GroupChanged
from embery.worker.gradients import Push
from embery.worker.leasing import LeasedBatches, patiently, require_pieces
from embery.worker.lookahead import read_ahead

if TYPE_CHECKING:
    from embery.worker.trainer import Labelled, Trainer


@dataclass(slots=True)
class _Tally:
    """What this worker did since the workers last met."""

    batches: int = 0
    samples: int = 0
    loss_sum: float = 0.0


class SharedReader(BoundedReader):
    """Reads a batch when both this worker's pushes and the other workers are within the bound."""

    def __init__(
        self, queue: PushQueue, reading: LeasedBatches, clock: BatchClock, *, staleness_max: int
    ) -> None:
        super().__init__(queue, staleness_max=staleness_max)
        self._reading, self._clock = reading, clock

    def begin_batch(self, number: int) -> None:
        """Wait until the slowest worker is at most `staleness_max` batches behind."""
        super().begin_batch(number)
        self._clock.begin(self.closed)

    def close(self) -> None:
        """Take no more batches, and end a wait of `begin_batch`."""
        self._reading.end()
        super().close()


class AsyncFit(FitRun):
    """See `FitRun`. Steps and samples of its position are those of all workers."""

    def __init__(
        self,
        trainer: Trainer,
        dataset: Iterable[Labelled],
        valid: Iterable[Labelled] | None,
        options: FitOptions,
        grant: GroupGrant | None,
    ) -> None:
        require_pieces(dataset)
        super().__init__(trainer, dataset, valid, options, grant)
        self._pieces = cast("BlockDataset", dataset)
        self._dense = trainer.shared_dense
        # Pieces of the epoch under way that are begun or finished.
        self._begun: list[BegunPiece] = []
        self._rounds = self._meetings = 0
        self._tally = _Tally()
        self._reading: LeasedBatches | None = None
        membership = trainer.store.membership
        assert membership is not None  # The trainer has refused any other store.
        self._membership = membership
        if self._dense is not None:
            self._dense.create()

    def _begin(self) -> None:
        """Take the dense parameters from the store, which has those of rank 0 if none before."""
        if self._dense is not None and self._group.leads:
            self._dense.publish()
        self._use_name(self._group.broadcast_text(uuid.uuid4().hex))
        self._drain()

    def _use_name(self, name: str) -> None:
        """Read, and keep the bound of staleness, with those who use this name."""
        bound = self._trainer.mode.staleness_max
        self._name = name
        self._clock = BatchClock(self._membership, group=name, bound=bound)

    def _drain(self) -> None:
        super()._drain()
        if self._dense is not None:
            self._dense.pull()
            self._dense.adopt()

    # -- workers that come and go -----------------------------------------------------------------

    def _pause(self) -> None:
        self._queue.drain()
        self._clock.leave()
        if self._reading is not None:
            self._reading.close()

    def _progress(self) -> int:
        return self._meetings

    def _state(self) -> dict[str, Any]:
        state = super()._state()
        reading = [self._name, self._rounds, self._meetings]
        begun = [list(astuple(piece)) for piece in self._begun]
        return {**state, "reading": reading, "begun": begun}

    def _load_state(self, state: dict[str, Any]) -> None:
        super()._load_state(state)
        name, self._rounds, meetings = state["reading"]
        self._begun = [BegunPiece(*piece) for piece in state["begun"]]
        if meetings > self._meetings:
            # What this worker did was counted there.
            self._tally = _Tally()
        self._meetings = meetings
        if self._is_late and self._reading is None:
            self._use_name(name)

    def _settle(self, grant: GroupGrant, step: int | None) -> None:
        if self._meet():
            raise KeyboardInterrupt
        if self._dense is not None:
            self._dense.pull()
            self._dense.adopt()

    # -- rounds -----------------------------------------------------------------------------------

    def _train_epoch(self) -> bool:
        position, every = self._position, self._options.checkpoint_every
        total, world = self._pieces.num_batches, self._group.world_size
        self._reporter.begin_epoch(
            position.epoch,
            done=position.batch // world,
            total=None if total is None else -(-total // world),
        )
        while not self._reached_max_steps():
            before = position.step
            if self._train_round():
                self._begun = []
                return True
            if every is not None and position.step // every > before // every:
                self._checkpoint()
        return False

    def _train_round(self) -> bool:
        """Train until the workers have to agree; return whether all of the epoch was read."""
        trainer, bound = self._trainer, self._trainer.mode.staleness_max
        self._rounds += 1
        self._reading = reading = LeasedBatches(
            self._pieces,
            trainer.store,
            reading=self._reading_name(),
            epoch=self._position.epoch,
            begun=self._begun,
            idle=self._clock.leave,
        )
        reader = SharedReader(self._queue, reading, self._clock, staleness_max=bound)
        depth = min(self._options.depth, bound)
        batches = read_ahead(reading, trainer.embeddings, reader, depth=depth)
        with closing_iterator(batches):
            for batch in islice(batches, self._quota()):
                self._take_step(batch, reading)
                if self._interrupts.pending or self._group.call != "none":
                    reading.stop()
                    break
        return self._agree()

    def _quota(self) -> int | None:
        """Return this worker's part of the steps until the workers meet next; None: all there are.

        The sum of the parts may be a little more than what is left.
        """
        position, options = self._position, self._options
        left = []
        if options.max_steps is not None:
            left.append(options.max_steps - position.step)
        if options.checkpoint_every is not None:
            left.append(options.checkpoint_every - position.step % options.checkpoint_every)
        return -(-min(left) // self._group.world_size) if left else None

    def _reading_name(self) -> str:
        return f"{self._name}/{self._rounds}"

    def _take_step(self, batch: Batch, reading: LeasedBatches) -> None:
        trainer, tally = self._trainer, self._tally
        batch = cast("Batch", trainer.to_device(batch))
        learned = trainer.learn(batch)
        work: list[Any] = [partial(_apply_oldest, push, reading) for push in learned.pushes]
        if self._dense is not None:
            work.append(self._dense.pull)
        self._queue.submit([*work, self._clock.commit, reading.commit])
        tally.batches += 1
        tally.samples += len(batch)
        tally.loss_sum += learned.loss
        self._metrics.update(learned.output, batch.label)
        about = self._position.step + tally.batches * self._group.world_size
        self._reporter.step(about, loss=learned.loss, samples=len(batch))
        self._count(len(batch), self._clock.staleness)

    def _agree(self) -> bool:
        """Meet the other workers; return whether all of the epoch was read.

        Raises:
            KeyboardInterrupt: a worker was asked to end.
            GroupChanged: a worker is called to another group.
        """
        self._pause()
        # It may have come after this worker's last step, and must come to all of them.
        called = np.array([float(self._group.call != "none")])
        if self._meet():
            raise KeyboardInterrupt
        self._group.add_up_arrays(called)
        if called[0]:
            raise GroupChanged
        return sum(piece.finished for piece in self._begun) == self._pieces.piece_count

    def _meet(self) -> bool:
        """Add up what the workers did since they last met; return whether one is asked to end."""
        position, tally, group = self._position, self._tally, self._group
        interrupted = float(self._interrupts.pending)
        sums = np.array([tally.batches, tally.samples, tally.loss_sum, interrupted])
        staleness = np.zeros(group.world_size, np.int64)
        staleness[group.rank] = self._clock.staleness_seen
        group.add_up_arrays(sums, staleness)
        position.batch += int(sums[0])
        position.step += int(sums[0])
        position.samples += int(sums[1])
        position.loss_sum += float(sums[2])
        self._tally = _Tally()
        self._meetings += 1
        self._staleness_seen = int(staleness.max())
        # All have given back their leases: nothing of it changes any more.
        if not self._rounds:
            return bool(sums[3])
        pieces = self._pieces
        self._begun = patiently(
            lambda: self._membership.open_reading(
                self._reading_name(), plan=pieces.plan, pieces=pieces.piece_count, begun=self._begun
            )
        )
        return bool(sums[3])

    # -- checkpoints ------------------------------------------------------------------------------

    def _place(self) -> dict[str, Any]:
        begun = [[piece.piece, piece.done, piece.finished] for piece in self._begun]
        return {"reading": {"plan": self._pieces.plan, "begun": begun}}

    def _require_resumable(self, progress: dict[str, Any], where: str) -> None:
        if "reading" not in progress:
            raise InvalidArgument(
                f"{where} was saved by workers that took steps together, and {self._trainer.mode} "
                "with several workers reads and keeps its dense parameters in another way; go on "
                "in the mode that it was saved in, or with another folder"
            )
        plan = progress["reading"]["plan"]
        if plan != self._pieces.plan:
            raise InvalidArgument(
                f"{where} was saved while reading {plan}, and the data set is now "
                f"{self._pieces.plan}; give the same data set, or another folder"
            )

    def _take_place(self, progress: dict[str, Any]) -> None:
        self._begun = [BegunPiece(*piece) for piece in progress["reading"]["begun"]]


def _apply_oldest(push: Push, reading: LeasedBatches) -> None:
    """Push the gradients of a batch whose turn it is: it is the oldest that is not committed."""
    push.apply(reading.oldest)
