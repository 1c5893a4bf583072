"""What a delta and the checkpoints that it builds on hold together.

A row is taken from the newest that has it. One that a delta deleted is not taken from those before
it; if it came again since, the delta has it too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embery.checkpoint import format as fmt
from embery.checkpoint.format import Columns
from embery.checkpoint.manifest import GroupEntry, TableEntry

if TYPE_CHECKING:
    from embery.checkpoint.reader import Checkpoint

# A mixed key's group of slots, the order of tombstones in a state, is in its upper bits.
_GROUP_SHIFT = np.uint64(64 - 6)


@dataclass(frozen=True, slots=True)
class Part:
    """A file of rows of one of the checkpoints that make one up.

    Args:
        newer: sorted keys that newer ones changed or deleted.
    """

    checkpoint: Checkpoint
    table: TableEntry
    group: GroupEntry
    newer: NDArray[np.uint64]

    def rows(self) -> Iterator[Columns]:
        """Yield the rows that are not out of date, a bounded number at a time."""
        for columns in self.checkpoint.group_rows(self.table, self.group):
            if not self.newer.size:
                yield columns
                continue
            keys = columns["key"]
            places = np.minimum(np.searchsorted(self.newer, keys), self.newer.size - 1)
            present = self.newer[places] != keys
            yield {name: column[present] for name, column in columns.items()}


def parts_of(checkpoint: Checkpoint, table: str) -> list[Part]:
    """Return the files of all rows of a table, the oldest first."""
    parts: list[Part] = []
    newer = np.empty(0, np.uint64)
    for member in checkpoint.chain():
        entry = member.tables.get(table)
        if entry is None:
            break
        parts[:0] = [Part(member, entry, group, newer) for group in entry.groups]
        if member.base is not None:
            changed = [
                np.array(columns["key"])
                for group in entry.groups
                for columns in member.group_rows(entry, group)
            ]
            newer = np.unique(np.concatenate([newer, member.deleted(table), *changed]))
    return parts


def joined_states(base: Any, delta: Any) -> Any:
    """Return the state of a table as a full checkpoint would have it."""
    joined = {name: value for name, value in delta.items() if name != fmt.DELETED}
    if fmt.TOMBSTONES in base and fmt.TOMBSTONES in delta:
        both = np.concatenate([np.ravel(s[fmt.TOMBSTONES]) for s in (base, delta)]).reshape(-1, 2)
        order = np.argsort(both[:, 0] >> _GROUP_SHIFT, kind="stable")
        joined[fmt.TOMBSTONES] = both[order].reshape(-1, *np.shape(delta[fmt.TOMBSTONES])[1:])
    return joined
