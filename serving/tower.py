"""The dense part of a model, cut off at its embedding modules.

Whatever an embedding module returns becomes an input, and the rest of the model, run as it is, a
`torch.export` program from these inputs to the scores. Names of inputs: `dense`, the numbers of the
batch; `pooled_<i>`, what collection i returns; for one that does not pool, `rows_<i>_<j>`, lists
padded to the longest, and `lengths_<i>_<j>` of its feature j. Shape letters: B samples, J numbers,
L keys of the longest list, D columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import embery as em
from embery.errors import InvalidArgument
from embery.serving.manifest import Collection, FeatureEntry
from embery.serving.names import DENSE, lengths_name, pooled_name, rows_name

Arrays = dict[str, NDArray[Any]]


class _NotRead:
    """Stands where a batch has what a tower may not read."""

    def __init__(self, what: str) -> None:
        object.__setattr__(self, "_what", what)

    def __getattr__(self, name: str) -> Any:
        what = object.__getattribute__(self, "_what")
        raise InvalidArgument(
            f"the model reads {name!r} of the {what} of a batch outside its embedding modules; "
            "only what goes through them, and the dense numbers, can be served"
        )


class _PaddedRows(em.JaggedTensor):
    """Rows of a feature as a program has them: padded. Written down, no size depends on a value."""

    def __init__(self, rows: Tensor, lengths: Tensor) -> None:
        self._rows, self._counts = rows, lengths

    def lengths(self) -> Tensor:
        """Return how many rows each sample has, int64 (B,)."""
        return self._counts

    def values(self) -> Tensor:
        """Return the rows of a feature with one key a sample, (B, D)."""
        if self._rows.dim() == 2:
            return self._rows
        raise InvalidArgument(
            "the model reads the rows of a list one after the other, whose number no program for "
            "serving can know; read them by to_padded_dense() and lengths()"
        )

    def to_padded_dense(
        self, desired_length: int | None = None, padding_value: float = 0.0
    ) -> Tensor:
        """Return the rows cut or padded at their end; see `em.JaggedTensor`."""
        rows = self._rows[:, None] if self._rows.dim() == 2 else self._rows
        if desired_length is not None:
            rows = nn.functional.pad(rows, (0, 0, 0, desired_length))[:, :desired_length]
        if padding_value == 0.0:
            return rows
        kept = torch.arange(rows.shape[1])[None, :] < self._counts[:, None]
        return torch.where(kept[:, :, None], rows, padding_value)

    def offsets(self) -> Tensor:
        """Refuse: see `values`."""
        raise InvalidArgument("the model reads offsets of a list; read its lengths() instead")

    to_dense = offsets  # type: ignore[assignment]

    def weights_or_none(self) -> Tensor | None:
        """Return None: weights are not applied to rows, and not served."""
        return None


class _StandIn(nn.Module):
    """Returns inputs of the program in place of rows of a store."""

    def __init__(self, module: Any, number: int, feed: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._names = [feature.name for feature in module.features]
        self._columns = [module.tables[feature.table].dim for feature in module.features]
        self._pooled = isinstance(module, em.EmbeddingBagCollection)
        self._number = number
        # In a box of another kind than the containers that torch.export looks into.
        self._feed = feed

    def forward(self, batch: Any) -> Any:
        """Return what the module that stood here would have returned."""
        if self._pooled:
            return em.KeyedTensor(self._names, self._columns, self._feed[pooled_name(self._number)])
        return {
            name: _PaddedRows(
                self._feed[rows_name(self._number, j)], self._feed[lengths_name(self._number, j)]
            )
            for j, name in enumerate(self._names)
        }


class _Feed(Mapping[str, Tensor]):
    def __init__(self) -> None:
        self.inputs: tuple[tuple[str, Tensor], ...] = ()

    def __getitem__(self, name: str) -> Tensor:
        return dict(self.inputs)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict(self.inputs))

    def __len__(self) -> int:
        return len(self.inputs)


class _Tower(nn.Module):
    """The model as a function of the inputs of the program."""

    def __init__(self, model: nn.Module, names: list[str], feed: _Feed) -> None:
        super().__init__()
        self.model, self._names, self._feed = model, names, feed

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the scores, float32 (B,)."""
        self._feed.inputs = tuple(zip(self._names, inputs, strict=True))
        first = inputs[0]
        batch = em.data.Batch(
            label=first.new_zeros(first.shape[0], dtype=torch.float32),
            dense=self._feed.get(DENSE),
            sparse=_NotRead("sparse features"),  # type: ignore[arg-type]
            index=0,
        )
        return as_scores(self.model(batch), first.shape[0])


def embedding_modules(model: nn.Module) -> list[Any]:
    """Return the embedding modules of a model, in the order in which it names them.

    Raises:
        InvalidArgument: there are none, or the model is one itself.
    """
    kinds = (em.EmbeddingBagCollection, em.EmbeddingCollection)
    found = [module for module in model.modules() if isinstance(module, kinds)]
    if not found or isinstance(model, kinds):
        raise InvalidArgument(
            f"expected a model with an em.EmbeddingBagCollection or em.EmbeddingCollection in it, "
            f"got {type(model).__name__}"
        )
    return found


def collections_of(model: nn.Module) -> tuple[Collection, ...]:
    """Return what the embedding modules of a model read."""
    collections = []
    for module in embedding_modules(model):
        pooled = isinstance(module, em.EmbeddingBagCollection)
        features = tuple(
            FeatureEntry(f.name, f.table, f.pooling if pooled else None) for f in module.features
        )
        collections.append(Collection(pooled, features))
    return tuple(collections)


def as_scores(out: object, samples: int) -> Tensor:
    """Return what a model returned as float32 (B,); raise `InvalidArgument` if it is no score."""
    if isinstance(out, Tensor) and out.shape in ((samples,), (samples, 1)):
        return out.reshape(samples).float()
    got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
    raise InvalidArgument(
        f"expected a model that returns one score a sample, a tensor of shape ({samples},) or "
        f"({samples}, 1), got {got}"
    )


def export_tower(model: nn.Module, inputs: Arrays) -> torch.export.ExportedProgram:
    """Return the program of the dense part, in eval mode, for any number of samples.

    Args:
        model: as trained; its modules are as they were afterwards.
        inputs: of the program, for at least two samples, with lists of at least two keys.

    Raises:
        InvalidArgument: the model does more with a batch than tensor operations on these inputs.
    """
    feed, names = _Feed(), list(inputs)
    batch = torch.export.Dim("batch", min=1)
    sizes = [
        {0: batch, 1: torch.export.Dim(name, min=1)} if inputs[name].ndim == 3 else {0: batch}
        for name in names
    ]
    with _standing_in(model, feed):
        tower = _Tower(model, names, feed).eval()
        try:
            return torch.export.export(
                tower,
                tuple(torch.from_numpy(np.ascontiguousarray(inputs[name])) for name in names),
                dynamic_shapes=(tuple(sizes),),
                strict=False,
            )
        except InvalidArgument:
            raise
        except Exception as error:
            raise InvalidArgument(
                f"torch.export cannot export the dense part of {type(model).__name__} for any "
                "number of samples; look for Python branches and numbers that come from tensors, "
                f"such as len(x) where x.shape[0] would do: {type(error).__name__}: {error}"
            ) from error
        finally:
            feed.inputs = ()


@contextmanager
def _standing_in(model: nn.Module, feed: _Feed) -> Iterator[None]:
    """Put inputs of the program where the embedding modules are, within the context."""
    modules = embedding_modules(model)
    stand_ins = {id(module): _StandIn(module, i, feed) for i, module in enumerate(modules)}
    places = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if id(child) in stand_ins
    ]
    modes = {module: module.training for module in model.modules()}
    try:
        for parent, name, child in places:
            parent._modules[name] = stand_ins[id(child)]
        yield
    finally:
        for parent, name, child in places:
            parent._modules[name] = child
        for module, training in modes.items():
            module.training = training
