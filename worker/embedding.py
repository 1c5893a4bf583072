"""Embedding modules: rows of a store as layers of a torch model.

`EmbeddingBagCollection` pools the rows of each sample, `EmbeddingCollection` keeps them apart for
sequences. Both read all their tables in one pull, have one autograd node, and push one summed
gradient per distinct key. Shape letters: B samples, N values of a feature, D columns.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from embery._native import BatchPlan, BatchPlanner
from embery.errors import InvalidArgument
from embery.jagged import JaggedTensor, KeyedJaggedTensor, KeyedTensor
from embery.store import BatchIdentity, Store
from embery.table import Table
from embery.validation import require_int
from embery.worker.autograd import GatherRows, Pass, PoolRows
from embery.worker.gradients import GradientLog, push_gradients
from embery.worker.staging import staging_for

THREADS_MAX = 1024
POOLINGS = ("sum", "mean", "sqrtn")
Mode = Literal["train", "eval"]


@dataclass(frozen=True, slots=True)
class Feature:
    """A sparse feature, the table that holds its rows, and how a sample's rows become one vector.

    With rows x_i, weights w_i (1 where there are none) and n values in the sample, `pooling` is
    "sum": sum w_i x_i, "mean": sum w_i x_i / n, or "sqrtn": sum w_i x_i / sqrt(n), as torchrec
    defines them; a sample without values gets zeros. `EmbeddingCollection` does not pool.
    """

    name: str
    table: str = field(kw_only=True)
    pooling: Literal["sum", "mean", "sqrtn"] = field(kw_only=True, default="sum")

    def __post_init__(self) -> None:
        self.validate()

    def validate(self) -> None:
        """Raise `InvalidArgument` naming the field that is wrong."""
        for what in ("name", "table"):
            value = getattr(self, what)
            if not isinstance(value, str) or not value:
                raise InvalidArgument(f"Feature.{what} must be a non-empty string, got {value!r}")
        if self.pooling not in POOLINGS:
            raise InvalidArgument(
                f"Feature({self.name!r}).pooling must be one of {POOLINGS}, got {self.pooling!r}"
            )


class ReadAhead(Protocol):
    """The plan and the rows of a batch that were fetched before its turn."""

    @property
    def plan(self) -> BatchPlan:
        """Return the plan of the batch."""
        ...

    def take(self, mode: Mode) -> Tensor:
        """Return the rows as a pull in `mode` would give them now."""
        ...


class EmbeddingModule(nn.Module):
    """What both collections share: plan, pull, look-ahead, gradients.

    Args:
        tables: definitions; created in the store if they are not there.
        features: what to read from a batch, in the order of the output; names are distinct.
        store: where the rows live.
        device: of the output, "cpu" or "cuda".
        threads: that plan and pool; the processors this process may use if None. No result depends
            on it.

    Raises:
        InvalidArgument: a feature names no table of `tables`, names repeat, or the device is not
            there.
        SchemaMismatch: the store has a table of this name with another definition.
    """

    def __init__(
        self,
        *,
        tables: Sequence[Table],
        features: Sequence[Feature],
        store: Store,
        device: torch.device | str = "cpu",
        threads: int | None = None,
    ) -> None:
        super().__init__()
        by_name = _check_definitions(tables, features)
        threads = len(os.sched_getaffinity(0)) if threads is None else threads
        require_int(f"{type(self).__name__}: threads", threads, low=1, high=THREADS_MAX)
        self._staging = staging_for(device)
        for table in tables:
            store.create_table(table)
        self.store = store
        self.features = tuple(features)
        self.gradients = GradientLog()
        self.tables = by_name
        # Tables in the order in which the features first name them.
        self.table_names = list(dict.fromkeys(feature.table for feature in features))
        self._columns = tuple(by_name[feature.table].dim for feature in features)
        self._planner = BatchPlanner(
            [by_name[name].dim for name in self.table_names],
            [(f.name, self.table_names.index(f.table), f.pooling) for f in features],
            threads,
        )
        # By id of the batch; each entry keeps its batch alive, so that an id means one batch.
        self._ahead: dict[int, tuple[object, ReadAhead]] = {}

    @property
    def device(self) -> torch.device:
        """Return the device of the output."""
        return self._staging.device

    def plan(self, batch: KeyedJaggedTensor) -> BatchPlan:
        """Return what `batch` asks of the tables.

        Raises:
            InvalidArgument: a feature is missing, lengths do not fit, a weight is not finite.
        """
        keys = batch.keys()
        missing = [feature.name for feature in self.features if feature.name not in keys]
        if missing:
            raise InvalidArgument(
                f"the batch has no feature {missing[0]!r}, which this {type(self).__name__} reads; "
                f"it has {keys}"
            )
        place = {key: position for position, key in enumerate(keys)}
        weights = batch.weights_or_none()
        return self._planner.plan(
            _on_host(batch.values(), torch.int64).view(np.uint64),
            _on_host(batch.lengths(), torch.int64),
            None if weights is None else _on_host(weights, torch.float32),
            [place[feature.name] for feature in self.features],
            batch.stride(),
        )

    def read_ahead(self, batch: object, ahead: ReadAhead) -> None:
        """Use `ahead` when the module is next called with `batch`, that very object."""
        self._ahead[id(batch)] = (batch, ahead)

    def forget_ahead(self, batch: object) -> None:
        """Drop what `read_ahead` left for `batch` and the module has not used."""
        self._ahead.pop(id(batch), None)

    def step(self, batch: BatchIdentity | None = None) -> None:
        """Push the gradients of all forward passes since the last step, and return once applied.

        Each distinct key gets one optimizer step with its summed gradient.
        `embery.worker.gradients.push_gradients` steps several collections as one, which matters
        where they share a table, and says what `batch` is.

        Raises:
            InvalidArgument: no gradient has arrived; call loss.backward() first.
        """
        push_gradients([self], batch)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients that were not pushed yet."""
        super().zero_grad(set_to_none)
        self.gradients.take()

    def _begin(self, batch: Any) -> tuple[KeyedJaggedTensor, Tensor, Pass]:
        """Return the batch, its rows, and what the backward pass needs."""
        kjt = KeyedJaggedTensor.of(batch)
        mode: Mode = "train" if self.training else "eval"
        _, ahead = self._ahead.pop(id(batch), (None, None))
        if ahead is None:
            plan = self.plan(kjt)
            rows = pull_rows(self, plan, mode)
        else:
            plan = ahead.plan
            rows = ahead.take(mode)
        learns = self.training and torch.is_grad_enabled()
        rows.requires_grad_(learns)
        order = self.gradients.begin_forward() if learns else 0
        step = Pass(self._planner, plan, self._staging, self.gradients, self._columns, order)
        return kjt, rows, step

    def extra_repr(self) -> str:
        """Return the features, for the module's printed form."""
        return ", ".join(f"{f.name}: {f.table}" for f in self.features)


def pull_rows(module: EmbeddingModule, plan: BatchPlan, mode: Mode) -> Tensor:
    """Return the rows of `plan`, flat, float32, from the module's store."""
    rows = torch.empty(plan.float_count, dtype=torch.float32)
    module.store.pull_batch(module.table_names, plan.keys, plan.split(rows.numpy()), mode=mode)
    return rows


class EmbeddingBagCollection(EmbeddingModule):
    """Rows pooled to one vector a sample and feature; see `EmbeddingModule` for the arguments."""

    def forward(self, batch: Any) -> KeyedTensor:
        """Return the pooled rows of `batch`.

        In train() mode the pull inserts absent keys, and the backward pass leaves gradients for
        `step()`; in eval() mode nothing is inserted and absent keys read as zeros.

        Args:
            batch: KeyedJaggedTensor (Embery's, or torchrec's by its methods) of B samples with
                every feature; others are ignored. Best on the CPU. Weights get a gradient if they
                require one.

        Returns:
            KeyedTensor of float32 (B, sum of D), a block a feature in the order of the features.

        Raises:
            InvalidArgument: a feature is missing, lengths do not fit, or a weight is not finite.
        """
        kjt, rows, step = self._begin(batch)
        pooled = PoolRows.apply(rows, kjt.weights_or_none(), step)  # type: ignore[no-untyped-call]
        return KeyedTensor([f.name for f in self.features], self._columns, pooled)


class EmbeddingCollection(EmbeddingModule):
    """One row a value, for sequences; see `EmbeddingModule` for the arguments."""

    def forward(self, batch: Any) -> dict[str, JaggedTensor]:
        """Return the rows of each feature's values; modes and errors as `EmbeddingBagCollection`.

        Returns:
            feature name -> JaggedTensor with values float32 (N, D), the lengths of the batch, and
            its weights, which are not applied.
        """
        kjt, rows, step = self._begin(batch)
        gathered = GatherRows.apply(rows, step)  # type: ignore[no-untyped-call]
        out = {}
        for feature, values in zip(self.features, gathered, strict=True):
            of_batch = kjt[feature.name]
            weights = of_batch.weights_or_none()
            out[feature.name] = JaggedTensor.unchecked(
                values,
                lengths=of_batch.lengths().to(values.device),
                weights=None if weights is None else weights.to(values.device),
            )
        return out


def _on_host(tensor: Tensor, dtype: torch.dtype) -> NDArray[Any]:
    tensor = tensor.detach()
    if tensor.dtype == torch.uint64:
        tensor = tensor.view(torch.int64)
    return tensor.to("cpu", dtype).contiguous().numpy()


def _check_definitions(tables: Sequence[Table], features: Sequence[Feature]) -> dict[str, Table]:
    by_name = {table.name: table for table in tables}
    if len(by_name) != len(tables):
        raise InvalidArgument(
            f"tables must have distinct names, got {[table.name for table in tables]}"
        )
    names = [feature.name for feature in features]
    if not names or len(set(names)) != len(names):
        raise InvalidArgument(f"features must be at least one, with distinct names, got {names}")
    for feature in features:
        if feature.table not in by_name:
            raise InvalidArgument(
                f"Feature({feature.name!r}).table is {feature.table!r}, but tables are "
                f"{sorted(by_name)}; add it there"
            )
    return by_name
