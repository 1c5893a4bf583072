"""One run of `Trainer.fit`: where it is, what it has seen, when it stops."""

from __future__ import annotations

import logging
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from embery import checkpoint as checkpoints
from embery.checkpoint.location import storage_of
from embery.checkpoint.retention import retire
from embery.errors import CheckpointCorrupt, DeadlineExceeded, InvalidArgument, Unavailable
from embery.rpc.client import GroupGrant
from embery.rpc.trees import pack, unpack
from embery.worker.batches import batches_of, closing_iterator
from embery.worker.bounded import BoundedReader, PushQueue
from embery.worker.elastic import ElasticGroup
from embery.worker.fit_options import MONITORS, FitOptions, FitResult
from embery.worker.group import PeerLost, Share
from embery.worker.handover import DataPlace, Handover
from embery.worker.interrupt import Interrupts
from embery.worker.lookahead import prefetch, read_ahead
from embery.worker.reporting import Reporter, ReportOptions

log = logging.getLogger("embery.fit")

if TYPE_CHECKING:
    from embery.worker.trainer import Labelled, Trainer

# So often in a row the same workers try the same step again.
FAILURES_MAX = 3
T = TypeVar("T")


@dataclass(slots=True)
class Position:
    """Where the run is: the next batch, what was done so far, and how good it was.

    `bad_epochs` counts the epochs since the best one; `best_score` is larger for better.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    samples: int = 0
    loss_sum: float = 0.0
    best_epoch: int | None = None
    best_score: float = -math.inf
    bad_epochs: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


class GroupChanged(Exception):
    """The workers of the run are to change; nothing is under way."""


class FitRun:
    """Runs once."""

    def __init__(
        self,
        trainer: Trainer,
        dataset: Iterable[Labelled],
        valid: Iterable[Labelled] | None,
        options: FitOptions,
        grant: GroupGrant | None,
    ) -> None:
        self._trainer = trainer
        self._grant = grant
        self._handover = None if grant is None else Handover(trainer, grant)
        self._dataset = dataset
        self._valid = valid
        self._options = options
        self._group = trainer.group
        self._position = Position()
        # Of the epoch under way.
        self._metrics = trainer.new_metrics()
        self._staleness_seen = 0
        self._saved_step: tuple[int, int] | None = None
        # In rank 0, while training goes on.
        self._saving: Future[str] | None = None

    def run(self) -> FitResult:
        """Train until an option says stop."""
        options, trainer = self._options, self._trainer
        if options.resume and not self._is_late:
            self._resume()
        trainer.model.train()
        with ExitStack() as stack:
            report = options.report if self._group.leads else ReportOptions(progress=False)
            self._reporter = stack.enter_context(Reporter(report, trainer.store))
            self._interrupts = stack.enter_context(Interrupts())
            self._queue = PushQueue(unapplied_max=max(1, trainer.mode.staleness_max))
            stack.callback(self._queue.close)
            self._best_folder = self._folder_for_best(stack)
            if self._is_late:
                self._take_over(self._grant)
            else:
                self._begin()
            try:
                with self._interrupts_of_run():
                    stopped = self._steadily(self._run_epochs)
            except KeyboardInterrupt:
                if not self._interrupts.broke_in:
                    self._steadily(self._checkpoint)
                self._finish_saving()
                raise
            self._steadily(self._checkpoint)
            self._finish_saving()
            # Whoever comes back from `fit` may restore it.
            self._steadily(self._group.barrier)
            position = self._position
            if position.batch > 0:
                # A part of an epoch is told, but not kept: a resumed run will tell the whole.
                position.history.append(self._steadily(self._measure))
            if options.restore_best and position.best_epoch is not None:
                trainer.restore(self._best_folder)
        return FitResult(
            history=position.history,
            steps=position.step,
            samples=position.samples,
            stopped=stopped,
            best_epoch=position.best_epoch,
            staleness_seen=self._staleness_seen,
        )

    def _begin(self) -> None:
        """Do what training needs before its first step."""

    # -- workers that come and go -----------------------------------------------------------------

    @property
    def _is_late(self) -> bool:
        """Return whether the run is under way, and this worker has come to it."""
        return self._grant is not None and self._grant.source is not None

    def _steadily(self, work: Callable[[], T]) -> T:
        """Return what `work` returns; where the workers change, it is called again by those then.

        Raises:
            EmberyError: what fails though the workers are the same.
        """
        failures, before = 0, (-1, -1)
        while True:
            try:
                return work()
            except GroupChanged:
                log.info("the workers change after step %d", self._position.step)
            except (Unavailable, DeadlineExceeded) as error:
                present = self._position.step, self._group.world_size
                failures = failures + 1 if present == before else 0
                if self._handover is None or failures > FAILURES_MAX:
                    raise
                before = present
                log.warning("step %d is taken again: %s", self._position.step, error)
            self._pause()
            self._take_over(None)

    def _pause(self) -> None:
        """Come to where this worker's pushes are all applied."""
        self._queue.drain()

    def _take_over(self, grant: GroupGrant | None) -> None:
        """Go on in the next group, or in that of `grant`, with the state of one of its workers."""
        handover, group = self._handover, self._group
        assert handover is not None
        assert isinstance(group, ElasticGroup)
        starting, step = grant is not None, self._position.step
        while True:
            if grant is None:
                grant = group.form(step=self._progress(), starting=starting)
            if grant.source is None:
                raise Unavailable(
                    "the workers that had the state of this run are gone; start it again, from its "
                    "last checkpoint"
                )
            for embedding in self._trainer.embeddings:
                embedding.zero_grad()
            try:
                mine = pack(self._state()) if grant.rank == grant.source else b""
                state = unpack([group.share(bytes(mine), source=grant.source)])
                if grant.rank != grant.source:
                    self._load_state(state)
                self._trainer.push_as_member()
                self._settle(grant, None if starting else step)
                return
            except PeerLost as error:
                log.warning("another group is needed: %s", error)
                grant = None

    def _progress(self) -> int:
        """Return by what it is told who has the newest state."""
        return self._position.step

    def _state(self) -> dict[str, Any]:
        """Return what another worker needs to go on from here."""
        assert self._handover is not None
        progress = {"position": asdict(self._position), "handover": self._handover.state()}
        return self._trainer.state(progress)

    def _load_state(self, state: dict[str, Any]) -> None:
        assert self._handover is not None
        self._trainer.load_state(state)
        self._position = Position(**state["progress"]["position"])
        self._handover.load(state["progress"]["handover"])

    def _settle(self, grant: GroupGrant, step: int | None) -> None:
        """Push what workers that are gone may not have; `step` is this worker's before, if any."""
        assert self._handover is not None
        position = self._position
        place = DataPlace(position.epoch, position.batch, position.step)
        self._handover.settle(grant, self._dataset, place, step)

    # -- epochs -----------------------------------------------------------------------------------

    def _run_epochs(self) -> str:
        options, position = self._options, self._position
        while position.epoch < options.epochs:
            if options.patience is not None and position.bad_epochs >= options.patience:
                return "patience"
            if not self._train_epoch():
                return "max_steps"
            self._end_epoch()
        return "epochs"

    def _train_epoch(self) -> bool:
        """Train on what is left of the epoch; return whether all of it was."""
        position = self._position
        total: int | None = getattr(self._dataset, "num_batches", None)
        self._reporter.begin_epoch(position.epoch, done=position.batch, total=total)
        if self._reached_max_steps():
            return False
        with closing_iterator(self._source()) as batches:
            for batch in batches:
                with self._interrupts_of_step():
                    self._step(batch)
                if self._reached_max_steps():
                    return False
        return True

    def _interrupts_of_step(self) -> AbstractContextManager[None]:
        return self._interrupts.held_back() if self._group.alone else nullcontext()

    def _interrupts_of_run(self) -> AbstractContextManager[None]:
        """Hold Ctrl-C back until a step, in which the workers agree to end after it."""
        return nullcontext() if self._group.alone else self._interrupts.held_back()

    def _end_epoch(self) -> None:
        position = self._position
        record = self._measure()
        position.history.append(record)
        if self._valid is not None:
            more_is_better = MONITORS[self._options.monitor]
            value = record[f"valid/{self._options.monitor}"]
            self._compare(value if more_is_better else -value)
        position.epoch, position.batch, position.loss_sum = position.epoch + 1, 0, 0.0
        self._metrics = self._trainer.new_metrics()
        self._checkpoint()

    def _measure(self) -> dict[str, float]:
        """Return the metrics of the epoch so far, and of the validation data now."""
        position = self._position
        self._drain()
        record: dict[str, float] = {"epoch": position.epoch, "step": position.step}
        record["train/loss"] = (
            position.loss_sum / position.batch if position.batch > 0 else math.nan
        )
        record.update(_prefixed("train", self._metrics.of_all(self._group).compute()))
        if self._valid is not None:
            found = self._trainer.evaluate(self._valid, look_ahead=self._options.look_ahead)
            record.update(_prefixed("valid", found))
        self._reporter.end_epoch(position.step, record)
        return record

    def _compare(self, score: float) -> None:
        position = self._position
        # Not a number is never better.
        if not score > position.best_score:
            position.bad_epochs += 1
            return
        position.best_epoch, position.best_score, position.bad_epochs = position.epoch, score, 0
        if self._options.restore_best:
            self._trainer.save(self._best_folder)
            if self._group.leads:
                retire(storage_of(self._best_folder), 1)

    # -- steps ------------------------------------------------------------------------------------

    def _source(self) -> Iterator[Labelled]:
        trainer, options, position = self._trainer, self._options, self._position
        batches = trainer.shares(
            batches_of(self._dataset, epoch=position.epoch, start=position.batch)
        )
        bound = trainer.mode.staleness_max
        if bound:
            return self._read_within(bound, batches)
        if options.look_ahead:
            return prefetch(batches, trainer.embeddings, depth=options.depth)
        return batches

    def _read_within(self, bound: int, batches: Iterator[Labelled]) -> Iterator[Labelled]:
        reader = BoundedReader(self._queue, staleness_max=bound)
        depth = min(self._options.depth, bound)
        try:
            yield from read_ahead(batches, self._trainer.embeddings, reader, depth=depth)
        finally:
            self._staleness_seen = max(self._staleness_seen, reader.staleness_seen)

    def _step(self, batch: Labelled) -> None:
        trainer, options, position = self._trainer, self._options, self._position
        batch = trainer.to_device(batch)
        learned = trainer.learn(batch, interrupted=self._interrupts.pending)
        identity = None if self._handover is None else self._handover.batch(position.step)
        if trainer.mode.staleness_max:
            trainer.step_dense()
            self._queue.submit([partial(push.apply, identity) for push in learned.pushes])
        else:
            for push in learned.pushes:
                push.apply(identity)
            # All workers' gradients are applied now, or none is known to be.
            trainer.step_dense()
        samples = batch.rows_whole if isinstance(batch, Share) else len(batch.label)
        position.batch += 1
        position.step += 1
        position.samples += samples
        position.loss_sum += learned.loss
        if learned.output is not None:
            self._metrics.update(learned.output, batch.label)
        self._reporter.step(position.step, loss=learned.loss, samples=samples)
        self._count(len(batch.label), self._queue.unapplied)
        if options.checkpoint_every is not None and position.step % options.checkpoint_every == 0:
            self._checkpoint()
        if learned.interrupted:
            raise KeyboardInterrupt
        if learned.regroup:
            raise GroupChanged

    def _count(self, samples: int, staleness: int) -> None:
        """Let the cluster know of a batch that this worker took."""
        membership = self._trainer.store.membership
        if membership is not None:
            membership.advance(batches=1, samples=samples, staleness=staleness)

    def _drain(self) -> None:
        """Wait until the pushes of all workers are applied."""
        self._queue.drain()
        self._group.barrier()

    def _reached_max_steps(self) -> bool:
        return self._options.max_steps is not None and (
            self._position.step >= self._options.max_steps
        )

    # -- checkpoints ------------------------------------------------------------------------------

    def _checkpoint(self) -> None:
        """Save where the run is, if it is asked for and was not done here already."""
        folder, position = self._options.checkpoint, self._position
        if folder is None or self._saved_step == (position.epoch, position.step):
            return
        self._drain()
        metrics = self._metrics.of_all(self._group)
        progress = {
            "position": asdict(position),
            "metrics": metrics.state(),
            **self._place(),
        }
        self._finish_saving()
        self._saving = self._trainer.begin_save(folder, progress=progress, keep=self._options.keep)
        self._saved_step = (position.epoch, position.step)

    def _finish_saving(self) -> None:
        """Wait until the checkpoint that was begun last is complete; raise what went wrong."""
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()

    def _resume(self) -> None:
        folder = self._options.checkpoint
        assert folder is not None
        newest = checkpoints.newest(folder)
        if newest is None:
            return
        state = checkpoints.open_unchecked(newest).state
        if isinstance(state, dict) and state.get("progress") is not None:
            self._require_resumable(state["progress"], str(newest))
        progress = self._trainer.restore(newest)
        if progress is None:
            raise CheckpointCorrupt(
                f"{newest} was saved outside of fit and has no place in the data to resume at; "
                "restore it by Trainer.restore and train without resume"
            )
        self._position = Position(**progress["position"])
        self._take_place(progress)
        if self._group.leads:
            # Those of all workers, who add theirs up.
            self._metrics.load_state(progress["metrics"])
        self._saved_step = (self._position.epoch, self._position.step)

    def _place(self) -> dict[str, Any]:
        """Return where the run is in the data, beside its position."""
        return {}

    def _require_resumable(self, progress: dict[str, Any], where: str) -> None:
        """Raise `InvalidArgument` unless this run can go on where that of a checkpoint was."""
        if "reading" in progress:
            raise InvalidArgument(
                f"{where} was saved by several workers in em.Async mode, which read and keep their "
                "dense parameters in another way; go on in that mode, or with another folder"
            )

    def _take_place(self, progress: dict[str, Any]) -> None:
        """Go where `_place` said."""

    def _folder_for_best(self, stack: ExitStack) -> str:
        if self._options.checkpoint is not None:
            return f"{os.fspath(self._options.checkpoint)}/best"
        if not self._options.restore_best:
            return ""
        if self._group.elastic:
            raise InvalidArgument(
                "fit: where workers come and go, restore_best needs checkpoint, a folder that all "
                "of them reach"
            )
        if not self._group.leads:
            return self._group.broadcast_text("")
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="embery-best-"))
        return self._group.broadcast_text(folder)


def _prefixed(name: str, metrics: dict[str, float]) -> dict[str, float]:
    return {f"{name}/{metric}": value for metric, value in metrics.items()}
