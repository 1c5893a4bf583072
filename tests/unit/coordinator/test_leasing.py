"""Who gets which piece of the training data, and what becomes of a lease."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from embery.coordinator.leasing import FAILURES_MAX, failure, grant, revoke, settle
from embery.coordinator.state import ClusterOptions, Piece, Reading, Worker
from embery.rpc.readings import LeaseReport

OPTIONS = ClusterOptions(lease_s=2.0)
ANN, BOB = 1, 2


def reading_of(*pieces: Piece, count: int = 3) -> Reading:
    return Reading("epoch", "the data", count, {piece.number: piece for piece in pieces})


def changed(reading: Reading, pieces: Iterable[Piece]) -> Reading:
    return replace(reading, pieces={**reading.pieces, **{p.number: p for p in pieces}})


def test_pieces_are_given_out_in_order_each_to_one_worker() -> None:
    reading = reading_of()
    first, reason = grant(reading, ANN, 2)
    assert [(p.number, p.token, p.holder) for p in first] == [(0, 1, ANN), (1, 1, ANN)]
    assert "client 1 gets [0, 1]" in reason
    reading = changed(reading, first)
    # Asked again, it holds them already.
    assert grant(reading, ANN, 2)[0] == []
    second, _ = grant(reading, BOB, 2)
    assert [(p.number, p.holder) for p in second] == [(2, BOB)]
    assert grant(changed(reading, second), BOB, 2)[0] == []


def test_a_piece_that_was_given_back_goes_on_where_it_was_under_a_higher_token() -> None:
    reading = reading_of(Piece(1, done=3, token=4, holder=ANN), Piece(0, finished=True))
    returned, _ = settle(reading, ANN, [LeaseReport(1, 4, 5, "returned")])
    (given, *_), _ = grant(changed(reading, returned), BOB, 1)
    assert given == Piece(1, done=5, token=5, holder=BOB)


def test_reports_of_a_former_holder_change_nothing() -> None:
    reading = reading_of(Piece(0, done=3, token=2, holder=BOB))
    for late in (LeaseReport(0, 1, 9), LeaseReport(0, 1, 9, "finished"), LeaseReport(0, 2, 9)):
        assert settle(reading, ANN, [late]) == ([], f"piece 0: token {late.token} is not in force")


def test_a_report_that_comes_late_takes_nothing_back() -> None:
    reading = reading_of(Piece(0, done=5, token=1, holder=ANN))
    (piece,), _ = settle(reading, ANN, [LeaseReport(0, 1, 4)])
    assert piece.done == 5
    reading = changed(reading, settle(reading, ANN, [LeaseReport(0, 1, 6, "finished")])[0])
    assert settle(reading, ANN, [LeaseReport(0, 1, 6, "finished")])[0] == []


def test_a_reading_ends_when_every_piece_is_finished() -> None:
    reading = reading_of(Piece(0, finished=True), Piece(1, token=1, holder=ANN), count=2)
    assert reading.state == "open"
    done, _ = settle(reading, ANN, [LeaseReport(1, 1, 8, "finished")])
    reading = changed(reading, done)
    assert reading.state == "finished"
    assert grant(reading, ANN, 1)[0] == []
    assert reading_of(count=0).state == "finished"


@pytest.mark.parametrize(
    ("state", "heard_s", "kept"),
    [("live", 0.0, True), ("lost", 9.0, False), ("left", 9.0, False),
     # Known from before a restart, not heard of since.
     ("registered", 0.0, True), ("registered", -0.1, False)],
)  # fmt: skip
def test_a_lease_holds_as_long_as_its_worker_is_there(
    state: str, heard_s: float, kept: bool
) -> None:
    reading = reading_of(Piece(0, done=3, token=1, holder=ANN))
    worker = Worker(ANN, "ann", 0, 2, state, heard_s)  # type: ignore[arg-type]
    lost, reason = revoke(10.0, reading, {ANN: worker}, OPTIONS)
    assert lost == ([] if kept else [Piece(0, done=3, token=1, failures=1)])
    assert ("0 (of client 1)" in reason) is not kept


def test_a_lease_of_a_worker_that_was_forgotten_is_taken_back() -> None:
    reading = reading_of(Piece(0, token=1, holder=ANN), Piece(1))
    assert revoke(0.0, reading, {}, OPTIONS)[0] == [Piece(0, token=1, failures=1)]


def test_a_piece_that_fails_repeatedly_fails_the_reading() -> None:
    reading = reading_of()
    for attempt in range(1, FAILURES_MAX + 1):
        reading = changed(reading, grant(reading, ANN, 1)[0])
        report = LeaseReport(0, attempt, 0, "failed", "row group 0 is damaged")
        pieces, reason = settle(reading, ANN, [report])
        reading = changed(reading, pieces)
        said = failure(reading, reason)
        assert bool(said) is (attempt == FAILURES_MAX)
    assert said == (
        "piece 0 of the data failed 3 times, the last time: piece 0 failed: row group 0 is damaged"
    )
    assert replace(reading, error=said).state == "failed"
