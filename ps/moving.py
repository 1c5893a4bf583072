"""Slots on their way from one server to another, while training goes on.

The source copies all rows of the slots, and then, again and again, those that changed since. When
few are left it freezes the slots: changes of them are refused, and come again when they are known
to be somewhere. It copies the rest, and with it what belongs to the slots beside rows: which pushes
were applied, tombstones, candidates of admission, counters. The next routing says whose the slots
are; the other server forgets them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embery.errors import DeadlineExceeded, InvalidArgument, Unavailable
from embery.observability.logs import facts
from embery.ps.tables import ServedTables, SlotRange
from embery.rpc import trees
from embery.rpc.server_client import ServerClient

log = logging.getLogger(__name__)

# Slots are frozen when a round copied no more rows than this, or after so many rounds.
ROWS_FROZEN_MAX = 2048
ROUNDS_MAX = 16
# A checkpoint that is being saved keeps slots where they are; a move waits so long for it.
CHECKPOINT_WAIT_S = 60.0


@dataclass(slots=True)
class MoveOutcome:
    """What a move took: rows and bytes that were sent, seconds for which changes were refused."""

    rows: int = 0
    bytes: int = 0
    frozen_s: float = 0.0


def move_slots(
    tables: ServedTables, slots: SlotRange, version: int, target: ServerClient
) -> MoveOutcome:
    """Copy slots to `target` and leave them frozen here.

    Raises:
        InvalidArgument: this server does not own them, or by another routing than `version`.
        Unavailable: the target cannot be reached, or has not received what was sent.
        DeadlineExceeded: a checkpoint holds the slots.
    """
    tables.require_owned(slots, version)
    move = _Sending(tables, slots, target)
    move.send("begin", version=version)
    for _ in range(ROUNDS_MAX):
        if move.send_changes() <= ROWS_FROZEN_MAX:
            break
    if not tables.hold_routing(version, CHECKPOINT_WAIT_S):
        raise DeadlineExceeded(f"move of slots {slots}: a checkpoint is being saved; try again")
    frozen_at = time.monotonic()
    try:
        tables.freeze(slots, version)
        move.send_changes()
        move.finish()
    except BaseException:
        # Still frozen: the coordinator ends that with a new routing.
        tables.release_routing(version)
        raise
    move.outcome.frozen_s = time.monotonic() - frozen_at
    return move.outcome


@dataclass(slots=True)
class _Sending:
    tables: ServedTables
    slots: SlotRange
    target: ServerClient
    outcome: MoveOutcome = field(default_factory=MoveOutcome)
    horizons: dict[str, NDArray[np.uint64]] = field(default_factory=dict)

    def send(self, kind: str, **parts: Any) -> None:
        tree = {"kind": kind, "begin": self.slots.begin, "end": self.slots.end, **parts}
        packed = trees.pack(tree)
        self.outcome.bytes += len(packed)
        self.target.receive_slots(packed)

    def send_changes(self) -> int:
        """Send what has changed since the last time; return how many rows that was."""
        rows = 0
        for name in self.tables.names:
            changes = self.tables.store.export_changes(
                self.tables.id_of(name), *self.slots, self.horizons.get(name)
            )
            self.horizons[name] = changes.pop("horizon")
            count = len(changes["key"])
            if count or len(changes["deleted"]):
                self.send("changes", table=name, changes=changes)
            rows += count
        self.outcome.rows += rows
        return rows

    def finish(self) -> None:
        """Send what belongs to the slots beside rows, and what the target must now have."""
        store, slots = self.tables.store, self.slots
        counters = self.tables.owns_no_other(slots)
        ids = {name: self.tables.id_of(name) for name in self.tables.names}
        self.send(
            "finish",
            applied=self.tables.native.export_applied(*slots),
            states={
                name: store.export_slots(table, *slots, counters) for name, table in ids.items()
            },
            checks={
                name: list(map(str, store.check_slots(table, *slots)))
                for name, table in ids.items()
            },
        )


class Receiver:
    """Takes in slots that another server sends; thread-safe."""

    def __init__(self, tables: ServedTables) -> None:
        self._tables = tables
        self._lock = threading.Lock()

    def receive(self, chunks: Iterable[bytes]) -> None:
        """Take in one part.

        Raises:
            InvalidArgument: it is none, or of slots that this server owns.
            Unavailable: what came before it is not here.
        """
        tree = trees.unpack(chunks)
        if not isinstance(tree, dict) or not {"kind", "begin", "end"} <= tree.keys():
            raise InvalidArgument("receive slots: expected a tree with kind, begin and end")
        slots = SlotRange(tree["begin"], tree["end"])
        with self._lock:
            if tree["kind"] == "begin":
                self._tables.stage(slots, tree["version"])
                return
            self._tables.require_staged(slots)
            if tree["kind"] == "changes":
                table, changes = self._tables.id_of(tree["table"]), tree["changes"]
                self._tables.store.reserve_rows(table, *slots, len(changes["key"]))
                self._tables.store.import_changes(table, *slots, changes)
            else:
                self._finish(slots, tree)

    def _finish(self, slots: SlotRange, tree: dict[str, Any]) -> None:
        store = self._tables.store
        for name, check in tree["checks"].items():
            found = list(map(str, store.check_slots(self._tables.id_of(name), *slots)))
            if found != check:
                raise Unavailable(
                    f"slots {slots} of table {name!r}: the source has {check[0]} rows (checksum "
                    f"{check[1]}), {found[0]} ({found[1]}) arrived; the move has to begin again"
                )
        for name, state in tree["states"].items():
            store.merge_slots(self._tables.id_of(name), *slots, state)
        self._tables.native.import_applied(*slots, np.ascontiguousarray(tree["applied"]))
        log.info("slots have arrived", extra=facts(slots=str(slots)))
