"""Gradients of rows between the backward pass and the push.

A backward pass leaves one summed gradient per distinct key of its batch. `push_gradients` turns
what has gathered in several collections into a single push, so that a key gets one optimizer step
whatever the number of forward passes, features and collections that read it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from embery._native import BatchPlan
from embery.errors import InvalidArgument
from embery.store import F32, U64, BatchIdentity, Store

if TYPE_CHECKING:
    from embery.worker.embedding import EmbeddingModule


@dataclass(frozen=True, slots=True)
class Gradient:
    """The gradient of the rows of one forward pass.

    `order` is the number of that pass in its collection; `rows` is float32, flat, laid out as the
    rows of `plan`.
    """

    order: int
    plan: BatchPlan
    rows: Tensor


class GradientLog:
    """Gradients of one collection since its last push.

    Thread-safe: autograd may run the backward pass of a device in a thread of its own.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Guarded by _lock.
        self._forwards = 0
        self._gradients: list[Gradient] = []

    def begin_forward(self) -> int:
        """Count a forward pass that may bring a gradient; return its number."""
        with self._lock:
            self._forwards += 1
            return self._forwards

    def add(self, gradient: Gradient) -> None:
        """Keep a gradient for the next push."""
        with self._lock:
            self._gradients.append(gradient)

    def take(self) -> list[Gradient]:
        """Return what has gathered, in the order of the forward passes, and start anew.

        Sums of floats depend on their order, and autograd may visit forward passes in any.
        """
        with self._lock:
            gathered = sorted(self._gradients, key=lambda gradient: gradient.order)
            self._gradients, self._forwards = [], 0
        return gathered

    @property
    def forwards(self) -> int:
        """Return the forward passes since the last push."""
        return self._forwards

    def __len__(self) -> int:
        return len(self._gradients)


@dataclass(frozen=True, slots=True)
class Push:
    """One push: `grads[i]` to `keys[i]` of table `tables[i]`, duplicates allowed."""

    store: Store
    tables: list[str]
    keys: list[U64]
    grads: list[F32]

    def apply(self, batch: BatchIdentity | None = None) -> None:
        """Push, as that of `batch` if it is given, and return once applied."""
        self.store.push_batch(self.tables, self.keys, self.grads, batch=batch)


def push_gradients(
    collections: Iterable[EmbeddingModule], batch: BatchIdentity | None = None
) -> None:
    """Push what the backward passes left in `collections`, as one push to each store.

    The gradients of a key that several forward passes or collections read are summed in order:
    collection by collection as given, forward pass by forward pass. `batch` says which batch of a
    lease they are of: `LeasedBatches.oldest`.

    Raises:
        InvalidArgument: there is no gradient to push; nothing was changed.
    """
    for push in take_pushes(collections):
        push.apply(batch)


def take_pushes(collections: Iterable[EmbeddingModule]) -> list[Push]:
    """Take the gradients out of `collections`: one push for each of their stores.

    Raises:
        InvalidArgument: there is none.
    """
    collections = list(collections)
    if not any(len(collection.gradients) for collection in collections):
        raise InvalidArgument(_why_nothing(collections))
    stores = {id(collection.store): collection.store for collection in collections}
    return [
        _merge(store, [c for c in collections if c.store is store]) for store in stores.values()
    ]


def _why_nothing(collections: Sequence[EmbeddingModule]) -> str:
    if any(collection.gradients.forwards for collection in collections):
        return (
            "step(): no gradient has reached the embeddings since the last step; call "
            "loss.backward() before step(), on a loss that depends on them"
        )
    return (
        "step(): no forward pass in training mode since the last step; call the module on a batch "
        "in train() mode with gradients enabled, then loss.backward(), then step()"
    )


def _merge(store: Store, collections: Sequence[EmbeddingModule]) -> Push:
    keys: dict[str, list[U64]] = {}
    grads: dict[str, list[F32]] = {}
    for collection in collections:
        for gradient in collection.gradients.take():
            rows = gradient.plan.split(gradient.rows.numpy())
            for table, of_keys, of_rows in zip(
                collection.table_names, gradient.plan.keys, rows, strict=True
            ):
                keys.setdefault(table, []).append(of_keys)
                grads.setdefault(table, []).append(of_rows)
    # The store sums the gradients of a key that occurs twice, in order.
    return Push(
        store,
        list(keys),
        [_join(parts) for parts in keys.values()],
        [_join(parts) for parts in grads.values()],
    )


def _join(parts: list[NDArray[Any]]) -> NDArray[Any]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
