"""Who reads which piece of the training data: pure functions, as those of `decisions`.

Each returns the pieces that change, and why. A piece is read by the one worker that has its lease.
A lease holds as long as its worker is there. The next one has a higher token, by which what the
former holder still reports is told from what the present one does, and goes on after the batches
whose pushes are applied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice

from embery.coordinator.decisions import is_there
from embery.coordinator.state import ClusterOptions, Piece, Reading, Worker
from embery.rpc.readings import LeaseReport

# So many leases of a piece may end in a failure; with the last of them the reading fails.
FAILURES_MAX = 3


def grant(reading: Reading, client: int, want: int) -> tuple[list[Piece], str]:
    """Decide which pieces a worker gets, so that it holds `want`: the first that nobody has."""
    missing = want - len(reading.held_by(client))
    if missing <= 0 or reading.state != "open":
        return [], f"client {client} gets none: it holds enough, or the reading is {reading.state}"
    free = (
        piece
        for piece in (reading.pieces.get(n) or Piece(n) for n in range(reading.count))
        if piece.holder is None and not piece.finished
    )
    given = [replace(p, holder=client, token=p.token + 1) for p in islice(free, missing)]
    return given, f"client {client} gets {[piece.number for piece in given]}"


def settle(
    reading: Reading, client: int, reports: Sequence[LeaseReport]
) -> tuple[list[Piece], str]:
    """Decide what a worker's reports change; those of leases that it does not have change nothing.

    The reason names what failed, or what was passed over.
    """
    changed, reasons = [], []
    for report in reports:
        piece = reading.pieces.get(report.piece, Piece(report.piece))
        if piece.holder != client or piece.token != report.token:
            if report.outcome != "returned":
                reasons.append(f"piece {report.piece}: token {report.token} is not in force")
            continue
        # A report that comes late takes nothing back.
        piece = replace(piece, done=max(piece.done, report.done))
        if report.outcome == "finished":
            piece = replace(piece, holder=None, finished=True)
        elif report.outcome == "returned":
            piece = replace(piece, holder=None)
        elif report.outcome == "failed":
            piece = replace(piece, holder=None, failures=piece.failures + 1)
            reasons.append(f"piece {piece.number} failed: {report.error}")
        changed.append(piece)
    return changed, "; ".join(reasons)


def revoke(
    now_s: float, reading: Reading, workers: Mapping[int, Worker], options: ClusterOptions
) -> tuple[list[Piece], str]:
    """Decide which leases have ended because their worker is gone."""
    lost = [
        piece
        for piece in reading.pieces.values()
        if piece.holder is not None and not is_there(now_s, workers.get(piece.holder), options)
    ]
    changed = [replace(p, holder=None, failures=p.failures + 1) for p in lost]
    names = ", ".join(f"{piece.number} (of client {piece.holder})" for piece in lost)
    return changed, f"leases of workers that are gone: pieces {names}" if lost else ""


def failure(reading: Reading, reason: str) -> str:
    """Decide whether the reading has failed, and why; "" if it has not."""
    for piece in reading.pieces.values():
        if piece.failures >= FAILURES_MAX and not piece.finished:
            return (
                f"piece {piece.number} of {reading.plan} failed {piece.failures} times, the last "
                f"time: {reason}"
            )
    return ""
