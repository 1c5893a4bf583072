"""Real stores for the tests, closed when the test ends, and all that a table holds, as bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import embery as em
from embery.embedded import EmbeddedStore

SLOTS = 4096


@pytest.fixture
def connect() -> Iterator[Callable[..., EmbeddedStore]]:
    """Return `make(*tables, **options of connect)`; one thread unless told otherwise."""
    with ExitStack() as stores:

        def make(*tables: em.Table, threads: int = 1, **options: Any) -> EmbeddedStore:
            store = EmbeddedStore("embedded:", threads=threads, **options)
            stores.enter_context(store)
            for table in tables:
                store.create_table(table)
            return store

        yield make


def _bits(values: dict[str, Any]) -> dict[str, bytes | int]:
    return {
        name: value if isinstance(value, int) else np.asarray(value).tobytes()
        for name, value in values.items()
    }


@pytest.fixture
def snapshot() -> Callable[[EmbeddedStore, str], dict[str, bytes | int]]:
    """Return `take(store, table)`: every row, counter, LSN, candidate and tombstone, as bits."""

    def take(store: EmbeddedStore, table: str) -> dict[str, bytes | int]:
        native, table_id = store._native, store._ids[table]
        rows: dict[str, NDArray[Any]] = native.export_rows(table_id, 0, SLOTS)
        return {
            **_bits(rows),
            **_bits({f"{k} of table": v for k, v in native.export_state(table_id).items()}),
        }

    return take


class Clock:
    """Seconds since 1970, moved by hand."""

    def __init__(self, now_s: float = 1_000_000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()
