"""Training of a model whose embeddings live in a store."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from embery import checkpoint as checkpoints
from embery import dense_state
from embery.checkpoint import Checkpoint
from embery.data import Batch
from embery.errors import CheckpointCorrupt, EmberyError, InvalidArgument
from embery.place import Place
from embery.rpc.client import GroupGrant
from embery.store import Store
from embery.worker import training_state as dense
from embery.worker.asynchronous import AsyncFit
from embery.worker.batches import batches_of, closing_iterator
from embery.worker.dense import DenseRows
from embery.worker.elastic import ElasticGroup
from embery.worker.embedding import EmbeddingModule
from embery.worker.fit_options import FitOptions, FitResult
from embery.worker.fitting import FitRun
from embery.worker.gradients import Push, take_pushes
from embery.worker.group import DENSE_WIRES, DenseWire, Share, WorkerGroup
from embery.worker.leasing import require_pieces
from embery.worker.lookahead import prefetch
from embery.worker.low_rank import LowRankSum, PowerSGD
from embery.worker.metrics import ClickMetrics, Outputs
from embery.worker.modes import Async, Mode, Sync
from embery.worker.reporting import ReportOptions
from embery.worker.residuals import gather_residuals, load_residuals
from embery.worker.together import joint_pushes, learn_share

STATE_VERSION = 1


class Labelled(Protocol):
    """A batch: whatever the model takes, with its labels."""

    @property
    def label(self) -> Tensor:
        """Return the labels, float32, (B,) or as the loss wants them."""
        ...


@dataclass(frozen=True, slots=True)
class Learned:
    """What a step computed.

    Attributes:
        loss: of the whole batch, whatever part of it is this worker's.
        output: of the model; None where this worker's share is empty.
        pushes: that the step owes to the store.
        interrupted: whether a worker was asked to end; the same in all of them.
        regroup: whether a worker is called to another group; the same in all of them.
    """

    loss: float
    output: Any
    pushes: list[Push]
    interrupted: bool = False
    regroup: bool = False


class Trainer:
    """Trains a model, step by step: dense parameters by torch, rows of the store by push.

    Under `embery run` with several workers each of them takes its share of every batch, or in Async
    mode batches of its own, and all methods that train, evaluate, save or restore are collective
    (docs/guide/cluster.md).

    Args:
        model: contains one or more embedding modules; called with a batch.
        loss_fn: of the model's output and `batch.label`; returns a scalar, with several workers
            the mean over the rows.
        dense_optimizer: of the model's parameters; None if there are none to train.
        store: of the model's embedding modules.
        mode: em.Sync(), em.Hybrid(staleness=...) or em.Async(staleness=...).
        outputs: what the model returns, for the metrics: "logits" or "probabilities".
        dense_wire: how dense gradients travel between several workers, and are added up:
            "float32", "bfloat16" or "float16" in half the bytes, or em.PowerSGD(rank=...) in a few
            columns a matrix.

    Raises:
        InvalidArgument: the model has no embedding module, or one of another store.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Callable[[Any, Tensor], Tensor],
        dense_optimizer: torch.optim.Optimizer | None = None,
        *,
        store: Store,
        mode: Mode | None = None,
        outputs: Outputs = "logits",
        dense_wire: DenseWire | PowerSGD = "float32",
    ) -> None:
        self.mode = Sync() if mode is None else mode
        if not isinstance(self.mode, Mode) or type(self.mode) is Mode:
            raise InvalidArgument(f"mode must be em.Sync(), Hybrid() or Async(), got {mode!r}")
        self.mode.validate()
        if not isinstance(dense_wire, PowerSGD) and dense_wire not in DENSE_WIRES:
            raise InvalidArgument(
                f"dense_wire must be one of {DENSE_WIRES} or em.PowerSGD(), got {dense_wire!r}"
            )
        self.model = model
        self.loss_fn = loss_fn
        self.dense_optimizer = dense_optimizer
        self.store = store
        self._wire = _wire_of(dense_wire, dense_optimizer)
        self.group = _group_of(store)
        self._check_group()
        self.outputs: Outputs = outputs
        self.new_metrics()
        self.embeddings = [m for m in model.modules() if isinstance(m, EmbeddingModule)]
        if not self.embeddings:
            raise InvalidArgument(
                "Trainer: the model has no EmbeddingBagCollection or EmbeddingCollection among its "
                "modules; make it an attribute of the model"
            )
        if any(embedding.store is not store for embedding in self.embeddings):
            raise InvalidArgument(
                "Trainer: an embedding module of the model uses another store than the trainer's"
            )
        self.shared_dense: DenseRows | None = None
        if self._apart and dense_optimizer is not None:
            self.shared_dense = DenseRows(dense_optimizer, store)
        parameter = next(model.parameters(), None)
        self._device = self.embeddings[0].device if parameter is None else parameter.device

    def fit(
        self,
        dataset: Iterable[Labelled],
        *,
        epochs: int = 1,
        valid: Iterable[Labelled] | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int | None = None,
        keep: int | None = None,
        resume: bool = False,
        look_ahead: bool = True,
        depth: int = 4,
        max_steps: int | None = None,
        monitor: str = "auc",
        patience: int | None = None,
        restore_best: bool = False,
        progress: bool | None = None,
        log_dir: str | os.PathLike[str] | None = None,
        log_every: int = 50,
    ) -> FitResult:
        """Train for `epochs` passes over `dataset`.

        In `Sync` mode the results are the same bits with look-ahead and without, and after a
        restore as without the interruption. Ctrl-C finishes the step, saves a checkpoint if
        `checkpoint` is given, and raises KeyboardInterrupt.

        Args:
            dataset: an `em.data.Dataset`, or an iterable of batches with a `label`. Only the former
                goes on at a batch without reading those before it, and shuffles anew each epoch.
            epochs: passes over the data, those before a resume included.
            valid: evaluated after every epoch.
            checkpoint: folder of checkpoints; one is saved after every epoch and at the end.
            checkpoint_every: steps from one checkpoint to the next within an epoch.
            keep: checkpoints to keep in the folder, the newest; None keeps all.
            resume: go on from the newest checkpoint in the folder, if it has one.
            look_ahead: fetch the rows of the next batches while this one is computed.
            depth: batches to fetch ahead.
            max_steps: stop after so many steps, those before a resume included.
            monitor: metric of `valid` that decides which epoch is best: "auc" or "logloss".
            patience: stop after so many epochs in a row that are not better than the best.
            restore_best: at the end go back to the best epoch.
            progress: show a bar; None shows it where stderr is a terminal.
            log_dir: folder for TensorBoard: loss, samples/s, metrics, rows of each table.
            log_every: steps from one point of a curve to the next.

        Returns:
            the history: a dict of metrics an epoch, why training stopped, and the staleness seen.

        Raises:
            InvalidArgument: an argument is wrong; nothing was changed.
            EmberyError: the loss is not finite; the step was not taken.
        """
        options = FitOptions(
            epochs=epochs,
            checkpoint=checkpoint,
            checkpoint_every=checkpoint_every,
            keep=keep,
            resume=resume,
            look_ahead=look_ahead,
            depth=depth,
            max_steps=max_steps,
            monitor=monitor,
            patience=patience,
            restore_best=restore_best,
            report=ReportOptions(progress=progress, log_dir=log_dir, log_every=log_every),
        )
        options.validate(self.mode, has_valid=valid is not None)
        if self._apart:
            require_pieces(dataset)
        run = AsyncFit if self._apart else FitRun
        return run(self, dataset, valid, options, self._join()).run()

    def evaluate(self, dataset: Iterable[Labelled], *, look_ahead: bool = True) -> dict[str, float]:
        """Return {"auc", "logloss", "calibration"} of the model on `dataset`.

        Nothing is inserted or learned; a key without a row reads as zeros. See
        `embery.worker.metrics` for what the numbers mean.
        """
        metrics = self.new_metrics()
        was_training = self.model.training
        self.group.average_buffers(self.model)
        self.model.eval()
        try:
            source = self.shares(batches_of(dataset))
            if look_ahead:
                source = prefetch(source, self.embeddings)
            with torch.no_grad(), closing_iterator(source) as batches:
                for batch in batches:
                    if batch.label.numel():  # Not so in an empty share.
                        batch = self.to_device(batch)  # noqa: PLW2901
                        metrics.update(self.model(batch), batch.label)
        finally:
            self.model.train(was_training)
        return metrics.of_all(self.group).compute()

    def save(self, dest: str | os.PathLike[str], *, progress: dict[str, Any] | None = None) -> str:
        """Save tables, dense parameters, optimizer and random generators as one checkpoint.

        Args:
            dest: folder of checkpoints.
            progress: where `fit` is, if it is under way.

        Returns:
            the path of the manifest.
        """
        saving = self.begin_save(dest, progress=progress)
        return self.group.broadcast_text("" if saving is None else saving.result())

    def begin_save(
        self,
        dest: str | os.PathLike[str],
        *,
        progress: dict[str, Any] | None = None,
        keep: int | None = None,
    ) -> Future[str] | None:
        """Begin a `save` of this moment; training may go on at once. None in all ranks but 0.

        `keep` leaves so many checkpoints in `dest`, the newest; None all.
        """
        self.group.average_buffers(self.model)
        # Everybody's pushes are applied, and nobody pulls for the next batch yet.
        self.group.barrier()
        wire = None
        if isinstance(self._wire, LowRankSum):
            wire = self._wire.state(self.group.add_up, leads=self.group.leads)
        owed = gather_residuals(self.store, self.group)
        saving = None
        if self.group.leads:
            state = {**self.state(progress), "dense_wire": wire, "residuals": owed}
            saving = self.store.checkpoint_async(dest, state=state, keep=keep)
        # Not before the cut of all servers is made.
        self.group.barrier()
        return saving

    def state(self, progress: dict[str, Any] | None) -> dict[str, Any]:
        """Return all that training is beside the tables, as a tree for a checkpoint."""
        return {
            "trainer": STATE_VERSION,
            "model": dense_state.model_state(self.model),
            "optimizer": dense.optimizer_state(self.dense_optimizer),
            "rng": dense.rng_state(),
            "progress": progress,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned, of a trainer with an equal model and optimizer."""
        dense_state.load_model(self.model, state["model"])
        dense.load_optimizer(self.dense_optimizer, state["optimizer"])
        dense.load_rng(state["rng"])

    def restore(self, src: str | os.PathLike[str]) -> dict[str, Any] | None:
        """Go back to a checkpoint that `save` or `fit` made; return its `progress`.

        Raises:
            CheckpointCorrupt: it is damaged, or not a trainer's.
            SchemaMismatch: its model, optimizer or tables are others. Nothing was changed.
        """
        found = checkpoints.open_unchecked(src)
        state = _trainer_state(found)
        dense_state.check_model(self.model, state["model"], found.path)
        dense.check_optimizer(self.dense_optimizer, state["optimizer"], found.path)
        self.group.barrier()
        if self.group.leads:
            self.store.restore(found.path)
        self.group.barrier()
        load_residuals(self.store, self.group, state.get("residuals", ()))
        for embedding in self.embeddings:
            embedding.zero_grad()
        self.load_state(state)
        if isinstance(self._wire, LowRankSum):
            self._wire.load(state.get("dense_wire"), leads=self.group.leads)
        progress: dict[str, Any] | None = state["progress"]
        return progress

    # -- what a run of fit is made of -------------------------------------------------------------

    def new_metrics(self) -> ClickMetrics:
        """Return metrics of the model's outputs that have seen nothing."""
        return ClickMetrics(outputs=self.outputs)

    def shares(self, batches: Iterator[Labelled]) -> Iterator[Labelled]:
        """Return this worker's part of each batch: all of it, if it works alone."""
        if self.group.alone:
            return batches
        shares: Iterator[Any] = self.group.shares(cast("Iterator[Batch]", batches))
        return shares

    def learn(self, batch: Labelled, *, interrupted: bool = False) -> Learned:
        """Compute gradients; return the loss, the model's output and the pushes that it owes.

        `step_dense` takes the dense step: after the pushes where these are exact, so that a step of
        which others have a part is not taken in part.

        Raises:
            EmberyError: the loss is not finite; no parameter and no row was changed by it.
        """
        if not (self.group.alone or self._apart):
            return self._learn_together(cast("Share", batch), interrupted)
        if self.shared_dense is not None:
            self.shared_dense.adopt()
        output = self.model(batch)
        loss = self.loss_fn(output, batch.label)
        value = float(loss.detach())
        _require_finite(value)
        if self.dense_optimizer is not None:
            self.dense_optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        pushes = take_pushes(self.embeddings)
        if self.shared_dense is not None:
            # The servers take the step of the dense optimizer.
            pushes = [self.shared_dense.push_of(push) for push in pushes]
        return Learned(value, output, pushes)

    def step_dense(self) -> None:
        """Take a step of the dense optimizer, where it is this worker that takes it."""
        if self.dense_optimizer is not None and self.shared_dense is None:
            self.dense_optimizer.step()

    def pushes_of(self, share: Share) -> list[Push]:
        """Return the pushes of a share of a batch whose dense step was taken before."""
        loss = self.loss_fn(self.model(share), share.label) * share.weight
        loss.backward()  # type: ignore[no-untyped-call]
        if self.dense_optimizer is not None:
            self.dense_optimizer.zero_grad()
        return joint_pushes(self.embeddings)

    def _learn_together(self, share: Share, interrupted: bool) -> Learned:
        loss, output, interrupted, regroup = learn_share(
            self.group,
            self.model,
            self.loss_fn,
            self.dense_optimizer,
            share,
            wire=self._wire,
            interrupted=interrupted,
        )
        _require_finite(loss)
        pushes = joint_pushes(self.embeddings)
        if self.mode.staleness_max and not len(share):
            pushes = []  # Nobody waits for it.
        return Learned(loss, output, pushes, interrupted, regroup)

    @property
    def _apart(self) -> bool:
        """Return whether there are other workers, which take steps of their own."""
        return isinstance(self.mode, Async) and not self.group.alone

    def _check_group(self) -> None:
        if self.group.alone:
            return
        if self.store.url.startswith("embedded:"):
            raise InvalidArgument(
                f"Trainer: this run has {self.group.world_size} workers, or may have more, and "
                "each would train rows of its own in an embedded store; call em.connect() without "
                "a URL"
            )
        if self.group.elastic and isinstance(self._wire, LowRankSum):
            raise InvalidArgument(
                "Trainer: em.PowerSGD keeps in each worker what it has not sent, which is lost "
                "with a worker; give another dense_wire where workers come and go"
            )
        if self._apart and self._wire != "float32":
            raise InvalidArgument(
                f"Trainer: dense_wire says how dense gradients are added up between workers, and "
                f"{self.mode} pushes them to the store; leave it out, or use em.Hybrid"
            )

    def _join(self) -> GroupGrant | None:
        """Take a place among the workers; return it where they come and go."""
        grant = None
        if isinstance(self.group, ElasticGroup):
            grant = self.group.form(step=0, starting=True)
        if not self.group.alone and (grant is None or grant.source is None):
            self.group.begin_alike(self.model)
            self.push_as_member()
        return grant

    def push_as_member(self) -> None:
        """Make this worker's pushes part of those of all workers in Sync mode, in others not."""
        joined = self.group if isinstance(self.mode, Sync) else WorkerGroup(Place())
        self.store.join_group(joined.rank, joined.world_size)

    def to_device(self, batch: Labelled) -> Labelled:
        """Return the batch with its dense part on the model's device; ids stay on the host."""
        if self._device.type == "cpu" or not isinstance(batch, Batch):
            return batch
        return replace(
            batch,
            label=batch.label.to(self._device, non_blocking=True),
            dense=None if batch.dense is None else batch.dense.to(self._device, non_blocking=True),
        )


def _group_of(store: Store) -> WorkerGroup:
    """Return the group of workers that this process was launched in."""
    group = WorkerGroup.of_run()
    if group.elastic and store.membership is not None:
        return ElasticGroup(store.membership)
    return group


def _wire_of(
    dense_wire: DenseWire | PowerSGD, optimizer: torch.optim.Optimizer | None
) -> DenseWire | LowRankSum:
    """Return what adds up the gradients of float32 of the parameters of `optimizer`."""
    if not isinstance(dense_wire, PowerSGD):
        return dense_wire
    groups = [] if optimizer is None else optimizer.param_groups
    parameters = [p for group in groups for p in group["params"] if p.dtype == torch.float32]
    if not parameters:
        return "float32"
    return LowRankSum(dense_wire, [p.shape for p in parameters], parameters[0].device)


def _require_finite(loss: float) -> None:
    if not math.isfinite(loss):
        raise EmberyError(
            f"the loss is {loss}; this step was not taken. Lower the learning rates, or look for "
            "labels and features that are not finite"
        )


def _trainer_state(found: Checkpoint) -> dict[str, Any]:
    state = found.state
    if not isinstance(state, dict) or state.get("trainer") != STATE_VERSION:
        raise CheckpointCorrupt(
            f"{found.path} has no state of a trainer of version {STATE_VERSION}: it was saved by "
            "Store.checkpoint, or by another version; Store.restore reads its tables"
        )
    return state
