"""A table that lies on several servers, as checkpoints save and load it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embery.checkpoint.columns import value_bytes
from embery.checkpoint.format import DELETED
from embery.checkpoint.tables import Lsns
from embery.routing import SLOT_COUNT, slots_of
from embery.rpc.server_client import ServerClient
from embery.table import Table

Columns = dict[str, NDArray[Any]]
State = dict[str, Any]
Owners = NDArray[np.uint16]

SLOT_SHIFT = np.uint64(64 - 12)  # A mixed key's slot is in its upper bits.
# Arrays of records that begin with a mixed key, by the uint64 of a record.
_RECORDS = {"candidates": 3, "tombstones": 2}


@dataclass(frozen=True, slots=True)
class ClusterTable:
    """A `TableSource` and a `TableSink` over servers.

    Args:
        owners: uint16, shape (4096,): the server of each slot.
        row_count: about how many rows it has.
    """

    table: Table
    owners: Owners
    servers: Mapping[int, ServerClient]
    row_count: int = 0

    @property
    def definition(self) -> dict[str, Any]:
        """Return `Table.to_dict()`."""
        return self.table.to_dict()

    @property
    def value_bytes(self) -> int:
        """Return the bytes of a row's stored values."""
        return value_bytes(self.table.dtype, self.table.dim)

    @property
    def state_floats(self) -> int:
        """Return the float32 of optimizer state of a row."""
        return self.table.optimizer.state_floats(self.table.dim)

    def export_rows(self, slot_begin: int, slot_end: int, since: Lsns | None) -> Columns:
        """Return the rows of the cut in a range of slots, in the order of their mixed keys."""
        parts = [
            self.servers[owner].export_rows(self.table.name, begin, end, since)
            for owner, begin, end in runs(self.owners, slot_begin, slot_end)
        ]
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def export_state(self, since: Lsns | None) -> State:
        """Return what the servers held beside their rows at the cut, as one store would."""
        numbers = np.unique(self.owners).tolist()
        return joined([self.servers[n].export_state(self.table.name, since) for n in numbers])

    def clear(self) -> None:
        """Delete all rows and what is beside them."""
        for number in np.unique(self.owners).tolist():
            self.servers[number].clear_table(self.table.name)

    def reserve(self, slot_begin: int, slot_end: int, rows: int) -> None:
        """Make room for rows that come next."""
        for owner, begin, end in runs(self.owners, slot_begin, slot_end):
            share = -(-rows * (end - begin) // (slot_end - slot_begin))
            self.servers[owner].reserve_rows(self.table.name, begin, end, share)

    def import_rows(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Add rows, each where its slot is."""
        at = self.owners[slots_of(self.table.name, columns["key"])]
        for number in np.unique(at).tolist():
            mine = at == number
            part = {name: np.ascontiguousarray(column[mine]) for name, column in columns.items()}
            self.servers[number].import_rows(self.table.name, part)

    def import_state(self, state: Any) -> None:
        """Take what a store of any number of servers held beside its rows."""
        for number, part in divided(state, self.owners).items():
            self.servers[number].import_state(self.table.name, part)


def runs(owners: Owners, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield (owner, begin, end) of the longest ranges of slots with one owner, in order."""
    edges = np.flatnonzero(np.diff(owners[begin:end])) + 1 + begin
    for first, last in zip([begin, *edges.tolist()], [*edges.tolist(), end], strict=True):
        yield int(owners[first]), first, last


def joined(states: Sequence[State]) -> State:
    """Return the states of a table's servers as that of one store.

    Steps and LSNs are the highest of any server, as each slot is counted by its owner alone;
    counters add up. Operations, by which admission forgets, are counted by groups of slots: where
    two servers share a group, the higher count stands.
    """
    result: State = {"step": max(state["step"] for state in states)}
    for name, first in states[0].items():
        arrays = [state[name] for state in states]
        if name == DELETED:
            result[name] = np.concatenate(arrays)
        elif name in _RECORDS:
            records = np.concatenate(arrays).reshape(-1, _RECORDS[name])
            order = np.argsort(records[:, 0], kind="stable")
            result[name] = records[order].reshape(-1, *first.shape[1:])
        elif name == "slot_lsns":
            result[name] = np.max(arrays, axis=0)
        elif name == "groups":
            result[name] = np.sum(arrays, axis=0, dtype=np.uint64).reshape(first.shape)
            flat = [a.reshape(-1, 3) for a in arrays]
            result[name].reshape(-1, 3)[:, 0] = np.max([a[:, 0] for a in flat], axis=0)
        elif name != "step":
            result[name] = np.sum(arrays, axis=0, dtype=np.uint64)
    return result


def divided(state: State, owners: Owners) -> dict[int, State]:
    """Return each server's part of the state of one store: what `joined` would join again."""
    group_owners = owners[:: SLOT_COUNT // (np.asarray(state["groups"]).size // 3)]
    parts: dict[int, State] = {}
    for number in np.unique(owners).tolist():
        part: State = {}
        for name, value in state.items():
            if name == "step":
                part[name] = value
                continue
            array = np.array(value)
            if name in _RECORDS:
                records = array.reshape(-1, _RECORDS[name])
                mine = owners[(records[:, 0] >> SLOT_SHIFT).astype(np.int64)] == number
                array = records[mine].reshape(-1, *array.shape[1:])
            elif name == "slot_lsns":
                array[owners != number] = 0
            elif name == "groups":
                array.reshape(-1, 3)[group_owners != number, 1:] = 0
            else:
                array[group_owners != number] = 0
            part[name] = array
        parts[number] = part
    return parts
