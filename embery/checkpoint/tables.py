"""What a checkpoint is made from and restored into: tables, embedded or a server's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embery.checkpoint.format import Columns, Tree

Lsns = NDArray[np.uint64]


class TableSource(Protocol):
    """A table to save, as of one moment. Called from several threads.

    `since` are LSNs of all slots, uint64, shape (4096,): what changed after them is asked for; None
    asks for all.
    """

    @property
    def definition(self) -> Mapping[str, Any]:
        """Return `Table.to_dict()`."""

    @property
    def value_bytes(self) -> int:
        """Return the bytes of a row's stored values."""

    @property
    def state_floats(self) -> int:
        """Return the float32 of optimizer state of a row."""

    @property
    def row_count(self) -> int:
        """Return about how many rows there are; only the size of a read depends on it."""

    def export_rows(self, slot_begin: int, slot_end: int, since: Lsns | None) -> Columns:
        """Return the rows in the slots [slot_begin, slot_end), as in `columns.py`; called once."""

    def export_state(self, since: Lsns | None) -> Tree:
        """Return what the table holds beside its rows: counters, slot LSNs, tombstones, ...

        With `since`, only tombstones after it, and their keys: `deleted_keys`.
        """


class TableSink(Protocol):
    """A table to restore into."""

    @property
    def definition(self) -> Mapping[str, Any]:
        """Return `Table.to_dict()`."""

    def clear(self) -> None:
        """Delete all rows and what is beside them."""

    def reserve(self, slot_begin: int, slot_end: int, rows: int) -> None:
        """Make room for `rows` rows in the slots [slot_begin, slot_end), which come next."""

    def import_rows(self, columns: Columns) -> None:
        """Add rows; the arrays are read-only and valid only during the call."""

    def import_state(self, state: Tree) -> None:
        """Take what `TableSource.export_state` returned."""
