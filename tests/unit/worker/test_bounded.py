"""Pushes in the background: in order, bounded, and never lost in silence."""

from __future__ import annotations

import threading

import pytest

from embery.errors import ResourceExhausted
from embery.worker.bounded import BoundedReader, PushQueue


class HeldPush:
    """A push that is applied when the test lets it."""

    def __init__(self, error: Exception | None = None) -> None:
        self.released = threading.Event()
        self.error = error

    def apply(self) -> None:
        assert self.released.wait(30)
        if self.error is not None:
            raise self.error


def test_submit_waits_while_too_many_are_unapplied() -> None:
    queue = PushQueue(unapplied_max=2)
    held = [HeldPush() for _ in range(3)]
    queue.submit([held[0].apply])
    queue.submit([held[1].apply])
    third = threading.Thread(target=queue.submit, args=([held[2].apply],))
    third.start()
    assert queue.submitted == 2
    assert third.is_alive()
    held[0].released.set()
    third.join(30)
    assert not third.is_alive()
    assert queue.submitted == 3
    for push in held:
        push.released.set()
    queue.drain()
    queue.close()


def test_a_failed_push_raises_in_the_next_call_and_stops_what_follows() -> None:
    queue = PushQueue(unapplied_max=4)
    failing, after = HeldPush(ResourceExhausted("no memory")), HeldPush()
    queue.submit([failing.apply])
    queue.submit([after.apply])
    failing.released.set()
    with pytest.raises(ResourceExhausted, match="no memory"):
        queue.drain()
    with pytest.raises(ResourceExhausted, match="no memory"):
        queue.submit([after.apply])
    # It would wait for `after` had that been applied.
    queue.close()


def test_a_batch_is_read_when_its_staleness_is_within_the_bound() -> None:
    queue = PushQueue(unapplied_max=8)
    held = [HeldPush() for _ in range(2)]
    reader = BoundedReader(queue, staleness_max=1)
    for push in held:
        queue.submit([push.apply])
    waiting = threading.Thread(target=reader.begin_batch, args=(2,))
    waiting.start()
    assert waiting.is_alive()
    held[0].released.set()
    waiting.join(30)
    assert not waiting.is_alive()
    assert reader.staleness_seen == 1
    held[1].released.set()
    queue.close()


def test_closing_a_reader_ends_its_wait() -> None:
    queue = PushQueue(unapplied_max=1)
    reader = BoundedReader(queue, staleness_max=1)
    waiting = threading.Thread(target=reader.begin_batch, args=(5,))
    waiting.start()
    reader.close()
    waiting.join(30)
    assert not waiting.is_alive()
    assert reader.staleness_seen == 0
    queue.close()
