"""Dense parameters as rows of the store, for workers that do not wait for each other.

Each parameter lies in rows of a reserved table, one table a parameter group of the optimizer. A
worker pushes the gradients of a batch with those of its embedding rows, and the servers apply the
optimizer's rule; then it pulls what all workers have made of the parameters.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from embery import init, optim
from embery.errors import InvalidArgument
from embery.store import F32, U64, Store
from embery.table import Table
from embery.worker.gradients import Push

PREFIX = "embery.dense"
# Values of a row. A parameter begins in a row of its own, so that one without a gradient can be
# left out of a push: to torch that is not the same as a gradient of zero.
DIM = 256


class DenseRows:
    """The parameters of a torch optimizer, in a store.

    One thread calls `adopt` and `push_of`, another may apply what they return.

    Args:
        optimizer: torch.optim.SGD, Adagrad, Adam or AdamW; its `step` is never called.
        store: that all workers use.

    Raises:
        InvalidArgument: the servers have no such rule, or a parameter is not float32.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, store: Store) -> None:
        self._optimizer, self._store = optimizer, store
        self._groups: list[list[Tensor]] = [g["params"] for g in optimizer.param_groups]
        for parameter in (p for group in self._groups for p in group):
            if parameter.dtype != torch.float32:
                raise InvalidArgument(
                    f"em.Async keeps dense parameters of float32 in the store, got one of "
                    f"{parameter.dtype}; use em.Hybrid, or a model of float32"
                )
        self._rules = [rule_of(optimizer, group) for group in optimizer.param_groups]
        shapes = [[list(p.shape) for p in group] for group in self._groups]
        # Another model has other tables.
        model = zlib.crc32(repr(shapes).encode())
        self._tables = [
            Table(
                f"{PREFIX}.{model:08x}.{number}",
                dim=DIM,
                optimizer=rule,
                initializer=init.Zeros(),
                nonfinite="raise",
            )
            for number, rule in enumerate(self._rules)
        ]
        self._names = [table.name for table in self._tables]
        # Where the rows of each parameter of a group begin, and where the last one's end.
        self._starts = [
            np.cumsum([0, *(-(-p.numel() // DIM) for p in group)]).tolist()
            for group in self._groups
        ]
        self._keys: list[U64] = [np.arange(s[-1], dtype=np.uint64) for s in self._starts]
        self._lock = threading.Lock()
        # Guarded by _lock: what was pulled and not adopted yet.
        self._pulled: list[F32] | None = None

    def create(self) -> None:
        """Create the tables."""
        for table in self._tables:
            self._store.create_table(table)

    def publish(self) -> None:
        """Put the parameters that are not in the store there, with their values here.

        One worker does this, after `create`; the others wait for it.
        """
        for table, keys, group in zip(self._tables, self._keys, self._groups, strict=True):
            rows = _rows_of(group)
            absent = np.zeros(len(keys), np.uint8)
            self._store.peek_batch([table.name], [keys], [np.empty_like(rows)], [absent])
            missing = np.flatnonzero(absent)
            if len(missing):
                self._store.put_rows(table.name, keys[missing], rows[missing])

    def pull(self) -> None:
        """Pull the parameters; `adopt` makes them those of the model."""
        rows = [np.empty((len(keys), DIM), np.float32) for keys in self._keys]
        self._store.pull_batch(self._names, self._keys, rows, mode="eval")
        with self._lock:
            self._pulled = rows

    def adopt(self) -> None:
        """Give the model the parameters that were pulled last."""
        with self._lock:
            pulled, self._pulled = self._pulled, None
        if pulled is None:
            return
        with torch.no_grad():
            for group, starts, rows in zip(self._groups, self._starts, pulled, strict=True):
                for parameter, start in zip(group, starts, strict=False):
                    flat = torch.from_numpy(rows[start:].reshape(-1)[: parameter.numel()])
                    parameter.copy_(flat.view(parameter.shape))

    def push_of(self, push: Push) -> Push:
        """Return a push with the gradients of the parameters beside those of `push`.

        Raises:
            InvalidArgument: the optimizer's options are not those that the servers know.
        """
        tables, keys, grads = list(push.tables), list(push.keys), list(push.grads)
        options = self._optimizer.param_groups
        for number, group in enumerate(self._groups):
            if rule_of(self._optimizer, options[number]) != self._rules[number]:
                raise InvalidArgument(
                    f"em.Async: the servers apply {self._rules[number]}, and the optimizer's "
                    "options have changed since; with a learning rate that changes use em.Hybrid"
                )
            present = [i for i, p in enumerate(group) if p.grad is not None]
            if not present:
                continue
            starts = self._starts[number]
            parts = [self._keys[number][starts[i] : starts[i + 1]] for i in present]
            tables.append(self._names[number])
            keys.append(np.concatenate(parts))
            grads.append(_rows_of([group[i].grad for i in present]))
        return Push(push.store, tables, keys, grads)


def _rows_of(tensors: list[Any]) -> F32:
    """Return tensors as rows, each from the beginning of one; what is left of its last is 0."""
    counts = [-(-tensor.numel() // DIM) for tensor in tensors]
    rows = np.zeros((sum(counts), DIM), np.float32)
    begin = 0
    for tensor, count in zip(tensors, counts, strict=True):
        flat = rows[begin : begin + count].reshape(-1)[: tensor.numel()]
        torch.from_numpy(flat).copy_(tensor.detach().reshape(-1))
        begin += count
    return rows


def rule_of(optimizer: torch.optim.Optimizer, group: Mapping[str, Any]) -> optim.Optimizer:
    """Return the rule by which servers do what `optimizer` does to a parameter group.

    Raises:
        InvalidArgument: there is none that gives the same steps.
    """
    kind = type(optimizer)
    off = [name for name in ("maximize", "nesterov", "amsgrad", "dampening", "lr_decay")
           if group.get(name)]  # fmt: skip
    lr, decay = float(group.get("lr", 0.0)), float(group.get("weight_decay", 0.0))
    if off or kind not in (
        torch.optim.SGD,
        torch.optim.Adagrad,
        torch.optim.Adam,
        torch.optim.AdamW,
    ):
        raise InvalidArgument(
            f"em.Async applies the dense optimizer in the servers: torch.optim.SGD (momentum too), "
            f"Adagrad, Adam or AdamW, without nesterov, dampening, lr_decay, amsgrad or maximize; "
            f"got {kind.__name__}{f' with {off[0]}' if off else ''}. Use em.Hybrid for others"
        )
    rule: optim.Optimizer
    if kind is torch.optim.SGD:
        momentum = float(group["momentum"])
        if momentum:
            rule = optim.Momentum(lr=lr, momentum=momentum, weight_decay=decay)
        else:
            rule = optim.SGD(lr=lr, weight_decay=decay)
    elif kind is torch.optim.Adagrad:
        rule = optim.Adagrad(
            lr=lr,
            eps=float(group["eps"]),
            initial_accumulator=float(group["initial_accumulator_value"]),
            weight_decay=decay,
        )
    else:
        beta1, beta2 = map(float, group["betas"])
        decoupled = kind is torch.optim.AdamW or group.get("decoupled_weight_decay", False)
        adam = optim.AdamW if decoupled else optim.Adam
        rule = adam(lr=lr, beta1=beta1, beta2=beta2, eps=float(group["eps"]), weight_decay=decay)
    rule.validate()
    return rule
