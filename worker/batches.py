"""Batches of a data set or a loader, and where a batch keeps its sparse features."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from itertools import islice
from typing import Any, TypeVar

from embery.data import Dataset
from embery.jagged import is_keyed_jagged

Batch = TypeVar("Batch")

# Attributes of a batch, lists in it, dicts in those: deeper than any loader nests its features.
_DEPTH_MAX = 4


def batches_of(source: Iterable[Batch], *, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
    """Return the batches of an epoch from number `start` on.

    An `em.data.Dataset` goes to that place; of any other iterable the first `start` batches are
    read and dropped.
    """
    if isinstance(source, Dataset):
        found: Iterator[Any] = source.batches(epoch=epoch, start=start)
        return found
    batches = iter(source)
    return islice(batches, start, None) if start else batches


@contextmanager
def closing_iterator(batches: Iterator[Batch]) -> Iterator[Iterator[Batch]]:
    """Close the iterator at the end of the context, if it is one that can be closed."""
    try:
        yield batches
    finally:
        close_iterator(batches)


def close_iterator(batches: Iterator[Any]) -> None:
    """Close an iterator, if it is one that can be closed."""
    close = getattr(batches, "close", None)
    if close is not None:
        close()


def keyed_jagged_in(batch: object) -> list[Any]:
    """Return every KeyedJaggedTensor in `batch`, each once.

    It may be the batch itself, an attribute (`em.data.Batch.sparse`), or an element of a tuple,
    list or dict.
    """
    found: dict[int, Any] = {}
    for kjt in _search(batch, _DEPTH_MAX):
        found.setdefault(id(kjt), kjt)
    return list(found.values())


def _search(value: object, depth: int) -> Iterator[Any]:
    if is_keyed_jagged(value):
        yield value
    elif depth > 0:
        for part in _parts(value):
            yield from _search(part, depth - 1)


def _parts(value: object) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, tuple | list):
        return list(value)
    if is_dataclass(value):
        return [getattr(value, field.name) for field in fields(value)]
    return list(vars(value).values()) if hasattr(value, "__dict__") else []
