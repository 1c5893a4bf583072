"""Slots that get a copy on another server, or change their server, while training goes on.

The other server follows the slots: it gets all their rows, and with them whatever happens meanwhile
and from then on. To change the server, changes of the slots are refused for as long as it takes to
tell the other one of the last of them; the next routing says whose the slots are.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from embery.errors import DeadlineExceeded, Unavailable
from embery.ps.links import Links
from embery.ps.tables import ServedTables, SlotRange
from embery.rpc.server_client import ServerClient

COPY_TIMEOUT_S = 3600.0
FLUSH_TIMEOUT_S = 30.0
# A checkpoint that is being saved keeps slots where they are; a move waits so long for it.
CHECKPOINT_WAIT_S = 60.0


@dataclass(frozen=True, slots=True)
class CopyOutcome:
    """What a copy took: rows and bytes that were sent."""

    rows: int
    bytes: int


def copy_slots(
    tables: ServedTables, links: Links, slots: SlotRange, version: int, target: tuple[int, str]
) -> CopyOutcome:
    """Let another server follow slots; from when this returns it is their backup.

    Args:
        version: of the routing in force.
        target: number and address of the other server.

    Raises:
        InvalidArgument: this server does not own them, or by another routing than `version`.
        Unavailable: a newer routing has ended that.
        DeadlineExceeded: the other server is too slow.
    """
    tables.require_owned(slots, version)
    number, _ = target
    links.open(*target)
    rows, size = tables.native.copy_slots(number, *slots, COPY_TIMEOUT_S)
    return CopyOutcome(rows, size)


def hand_over_slots(
    tables: ServedTables, slots: SlotRange, version: int, target: ServerClient
) -> float:
    """Refuse changes of slots, and bring their backup to the last one; return how long that took.

    They stay refused until a routing says whose the slots are.

    Raises:
        Unavailable: a newer routing has ended that, or the copy is not equal.
        DeadlineExceeded: a checkpoint holds the slots.
    """
    if not tables.hold_routing(version, CHECKPOINT_WAIT_S):
        raise DeadlineExceeded(f"move of slots {slots}: a checkpoint is being saved; try again")
    frozen_at = time.monotonic()
    try:
        tables.freeze(slots, version)
        tables.native.flush_copies(FLUSH_TIMEOUT_S)
        for name in tables.names:
            own, other = tables.check(name, slots), target.check_copy(name, *slots)
            if own != other:
                raise Unavailable(
                    f"slots {slots} of table {name!r}: there are {own[0]} rows (checksum "
                    f"{own[1]}), and {other[0]} ({other[1]}) in the copy; the move begins again"
                )
    except BaseException:
        # Still frozen: the coordinator ends that with a new routing.
        tables.release_routing(version)
        raise
    return time.monotonic() - frozen_at
