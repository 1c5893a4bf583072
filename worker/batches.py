"""Where a batch keeps its sparse features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from embery.jagged import is_keyed_jagged

# Attributes of a batch, lists in it, dicts in those: deeper than any loader nests its features.
_DEPTH_MAX = 4


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
