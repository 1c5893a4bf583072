"""`Batch`, what a training step consumes, and `Dataset`, what yields batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from embery.data.block import Block
from embery.data.schema import Schema
from embery.errors import InvalidArgument
from embery.validation import require_int

if TYPE_CHECKING:
    from torch import Tensor

    from embery.jagged import KeyedJaggedTensor


@dataclass(frozen=True, slots=True)
class Batch:
    """B rows of a data set as torch tensors on the CPU.

    Args:
        label: float32, (B,), or (B, n_labels) where the schema names several labels.
        dense: float32, (B, n_dense), in the schema's order; None where it names none.
        sparse: all sparse features, in the schema's order; values are int64, the bits of the uint64
            key; None where the schema names none. If any feature is weighted, the values of the
            others weigh 1.
        index: number of the batch in its epoch: `Dataset.batches(start=index)` begins with it.
    """

    label: Tensor
    dense: Tensor | None
    sparse: KeyedJaggedTensor | None
    index: int

    def __len__(self) -> int:
        return len(self.label)


class Dataset(ABC):
    """Batches of rows, the same ones in the same order for the same (seed, epoch)."""

    @property
    @abstractmethod
    def schema(self) -> Schema:
        """Return what the columns mean."""

    @property
    @abstractmethod
    def batch_size(self) -> int:
        """Return the rows of every batch but perhaps the last."""

    @property
    def num_rows(self) -> int | None:
        """Return the rows of an epoch, or None where only reading would tell."""
        return None

    @property
    def num_batches(self) -> int | None:
        """Return the batches of an epoch, or None where only reading would tell."""
        return None if self.num_rows is None else -(-self.num_rows // self.batch_size)

    @abstractmethod
    def batches(self, *, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """Return the batches of an epoch from number `start` on.

        They are the very batches, bit for bit, that an iteration from the beginning would yield
        after its first `start`. Nothing is read before the first `next()`. Closing the iterator,
        or dropping it, ends its threads.

        Args:
            epoch: number of the pass over the data, >= 0; a shuffled data set orders each anew.
            start: number of the first batch to yield, from 0 to the number of batches.

        Raises:
            InvalidArgument: epoch or start is out of its range, or, from `next()`, the data are
                damaged or do not fit the schema.
        """

    def __iter__(self) -> Iterator[Batch]:
        """Return the batches of epoch 0."""
        return self.batches()

    def check_position(self, *, epoch: int, start: int) -> None:
        """Raise `InvalidArgument` unless `batches(epoch=epoch, start=start)` makes sense."""
        require_int("epoch", epoch, low=0, high=2**63 - 1)
        require_int("start", start, low=0, high=2**63 - 1)
        count = self.num_batches
        if count is not None and start > count:
            raise InvalidArgument(
                f"start must lie in [0, {count}], the number of batches of an epoch, got {start}; "
                "was the position saved with another batch_size or other files?"
            )


def batch_of(block: Block, schema: Schema, index: int) -> Batch:
    """Return the rows of `block` as the batch number `index`."""
    import torch  # noqa: PLC0415  only batches need it: blocks are read without

    label = torch.from_numpy(block.label)
    return Batch(
        label=label[:, 0] if len(schema.labels) == 1 else label,
        dense=torch.from_numpy(block.dense) if schema.dense else None,
        sparse=_jagged_of(block, schema) if schema.sparse else None,
        index=index,
    )


def _jagged_of(block: Block, schema: Schema) -> KeyedJaggedTensor:
    import torch  # noqa: PLC0415  as above

    from embery.jagged import KeyedJaggedTensor  # noqa: PLC0415

    values = np.concatenate([bags.values for bags in block.sparse]).view(np.int64)
    lengths = np.concatenate([bags.lengths() for bags in block.sparse])
    weights = None
    if any(bags.weights is not None for bags in block.sparse):
        weights = torch.from_numpy(
            np.concatenate(
                [
                    np.ones(len(bags.values), np.float32) if bags.weights is None else bags.weights
                    for bags in block.sparse
                ]
            )
        )
    return KeyedJaggedTensor(
        schema.keys, torch.from_numpy(values), lengths=torch.from_numpy(lengths), weights=weights
    )
