"""Leases of pieces of the training data, as workers and the coordinator speak of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from embery.rpc.records import ReadingState
from embery.rpc.v1 import coordinator_pb2 as c

if TYPE_CHECKING:
    from embery.rpc.channel import Channel

PIECES_MAX = 2**16
LEASES_MAX = 64
# Where the numbers of leases begin: servers know their pushes by them, as by those of clients.
LEASES = 2**63
Outcome = Literal["held", "finished", "returned", "failed"]
_OUTCOMES: dict[Outcome, c.LeaseOutcome] = {
    "held": c.LEASE_OUTCOME_HELD,
    "finished": c.LEASE_OUTCOME_FINISHED,
    "returned": c.LEASE_OUTCOME_RETURNED,
    "failed": c.LEASE_OUTCOME_FAILED,
}
_OUTCOME_NAMES = {message: outcome for outcome, message in _OUTCOMES.items()}
_ERROR_CHARACTERS_MAX = 2000
# The coordinator answers a call that waits by itself; this much later the caller gives up on it.
_WAIT_GRACE_S = 5.0


@dataclass(frozen=True, slots=True)
class BegunPiece:
    """A piece of which `done` batches are behind; `finished` if these are all.

    `lease` is the number of its leases so far, and `token` that of the newest: a batch that one of
    them has pushed in part counts once. 0 gives the piece a new number, as after a restore.
    """

    piece: int
    done: int
    finished: bool
    lease: int = 0
    token: int = 0

    def to_message(self) -> c.BegunPiece:
        """Return the message on the wire."""
        return c.BegunPiece(
            piece=self.piece,
            done=self.done,
            finished=self.finished,
            lease=self.lease,
            token=self.token,
        )

    @staticmethod
    def of(message: c.BegunPiece) -> BegunPiece:
        """Return what a message says."""
        return BegunPiece(
            message.piece, message.done, message.finished, message.lease, message.token
        )


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to read a piece, after its first `done` batches.

    `number` is that of the piece's leases: one may follow another, each with a higher `token`.
    """

    piece: int
    token: int
    done: int
    number: int


@dataclass(frozen=True, slots=True)
class LeaseReport:
    """How far a lease is: `done` batches of the piece, all of whose pushes are applied."""

    piece: int
    token: int
    done: int
    outcome: Outcome = "held"
    error: str = ""

    def to_message(self) -> c.LeaseReport:
        """Return the message on the wire."""
        return c.LeaseReport(
            piece=self.piece,
            token=self.token,
            done=self.done,
            outcome=_OUTCOMES[self.outcome],
            error=self.error[:_ERROR_CHARACTERS_MAX],
        )

    @staticmethod
    def of(message: c.LeaseReport) -> LeaseReport:
        """Return what a message says."""
        outcome = _OUTCOME_NAMES.get(message.outcome, "held")
        return LeaseReport(message.piece, message.token, message.done, outcome, message.error)


@dataclass(frozen=True, slots=True)
class Holding:
    """The leases that a worker has, and what the reading is; `error` says why it failed."""

    leases: list[Lease]
    state: ReadingState
    error: str


class ReadingCalls:
    """The calls of `CoordinatorClient` that are about training data."""

    _channel: Channel
    _stub: Any
    _timeout_s: float

    def open_reading(
        self, reading: str, *, plan: str, pieces: int, begun: Sequence[BegunPiece] = ()
    ) -> list[BegunPiece]:
        """Begin to share out the pieces of a data set; return those that are begun by now.

        A reading of this name that is there already is left as it is.

        Raises:
            InvalidArgument: it has another plan, or there are too many pieces.
        """
        request = c.OpenReadingRequest(
            reading=reading,
            plan=plan,
            pieces=pieces,
            begun=[piece.to_message() for piece in begun],
        )
        reply = self._channel.call(
            self._stub.OpenReading, request, self._timeout_s, what="open reading"
        )
        return [BegunPiece.of(piece) for piece in reply.begun]

    def hold_leases(
        self,
        incarnation: str,
        reading: str,
        *,
        want: int,
        reports: Sequence[LeaseReport] = (),
        wait_s: float = 0.0,
        stop: bool = False,
    ) -> Holding:
        """Report on leases, and ask to hold `want` of them; all that are held are returned.

        Without any, the call waits up to `wait_s` for one, or for the end of the reading.

        Raises:
            Unavailable: the coordinator cannot be reached, or does not know the worker; try again.
            InvalidArgument: there is no such reading.
        """
        request = c.HoldLeasesRequest(
            incarnation=incarnation,
            reading=reading,
            reports=[report.to_message() for report in reports],
            want=want,
            wait_ms=round(wait_s * 1000),
            stop=stop,
        )
        reply = self._channel.call(
            self._stub.HoldLeases, request, wait_s + _WAIT_GRACE_S, what="leases"
        )
        leases = [Lease(x.piece, x.token, x.done, x.number) for x in reply.leases]
        return Holding(leases, cast("ReadingState", reply.state), reply.error)
