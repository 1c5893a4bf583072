"""Time-to-live: a row that no push touched for so long is gone, for reads at once.

The clock is the test's: `connect(clock=...)`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import embery as em

TABLE = em.Table(
    "t",
    dim=1,
    optimizer=em.optim.Momentum(lr=1.0),
    initializer=em.init.Constant(5.0),
    eviction=em.TTL(seconds=100),
)
ONE = np.ones((1, 1), np.float32)


def counters(store: Any) -> dict[str, int]:
    return store.stats()["tables"]["t"]


def test_a_row_expires_at_its_time_to_live_and_not_before(connect: Any, clock: Any) -> None:
    store = connect(TABLE, clock=clock)
    store.push("t", [1], ONE)
    clock.now_s += 99
    assert store.pull("t", [1], train=False)[0, 0] == 4.0
    clock.now_s += 1
    assert store.pull("t", [1], train=False)[0, 0] == 0.0


def test_a_push_renews_a_row_and_a_pull_does_not(connect: Any, clock: Any) -> None:
    store = connect(TABLE, clock=clock)
    for key in (1, 2):
        store.push("t", [key], ONE)
    clock.now_s += 60
    store.push("t", [1], ONE)
    store.pull("t", [2])
    clock.now_s += 60
    assert store.evict("t") == 1
    assert store.inspect("t", 1) is not None
    assert store.inspect("t", 2) is None


@pytest.mark.parametrize("call", ["pull", "push"])
def test_an_expired_row_starts_anew_when_it_is_used(connect: Any, clock: Any, call: str) -> None:
    """Values, state and counts, though no sweep has come by."""
    store = connect(TABLE, clock=clock)
    store.push("t", [1], ONE)
    store.push("t", [1], ONE)
    clock.now_s += 100
    if call == "pull":
        assert store.pull("t", [1])[0, 0] == 5.0
    else:
        store.push("t", [1], ONE)
        assert store.pull("t", [1])[0, 0] == 4.0
    row = store.inspect("t", 1)
    assert row["updates"] == (call == "push")
    assert row["state"]["m"] == [float(call == "push")]
    assert row["last_time_s"] == clock.now_s
    stats = counters(store)
    assert (stats["rows"], stats["admitted"], stats["evicted"], stats["deleted"]) == (1, 2, 1, 1)


def test_a_peek_calls_an_expired_row_absent(connect: Any, clock: Any) -> None:
    store = connect(TABLE, clock=clock)
    store.push("t", [1], ONE)
    clock.now_s += 100
    key, absent = np.array([1], np.uint64), np.zeros(1, np.uint8)
    store.peek_batch(["t"], [key], [np.empty((1, 1), np.float32)], [absent])
    assert absent.tolist() == [1]
    assert counters(store)["deleted"] == 0


def test_evict_deletes_what_has_expired_and_counts_it(connect: Any, clock: Any) -> None:
    store = connect(TABLE, clock=clock)
    old, new = np.arange(1000, dtype=np.uint64), np.arange(1000, 1500, dtype=np.uint64)
    store.pull("t", old)
    clock.now_s += 60
    store.pull("t", new)
    clock.now_s += 60
    assert store.evict("t") == 1000
    assert store.evict("t") == 0
    stats = counters(store)
    assert (stats["rows"], stats["evicted"], stats["tombstones"]) == (500, 1000, 1000)
    assert store.deletions("t") == 1000


def test_pulls_and_pushes_sweep_in_passing(connect: Any, clock: Any) -> None:
    """Rows that are never asked for again go too, within a fraction of the time-to-live."""
    store = connect(TABLE, clock=clock)
    store.pull("t", np.arange(5000, dtype=np.uint64))
    for _ in range(15):
        clock.now_s += 10
        store.push("t", [2**40], ONE)
    stats = counters(store)
    assert (stats["rows"], stats["evicted"]) == (1, 5000)


def test_a_clock_that_goes_back_expires_nothing(connect: Any, clock: Any) -> None:
    store = connect(TABLE, clock=clock)
    store.push("t", [1], ONE)
    clock.now_s -= 500_000
    assert store.pull("t", [1], train=False)[0, 0] == 4.0
    store.push("t", [2], ONE)
    assert store.evict("t") == 0
    clock.now_s += 500_000 + 99
    assert store.pull("t", np.array([1, 2]), train=False)[:, 0].tolist() == [4.0, 0.0]


def test_days_and_seconds_add_up(connect: Any, clock: Any) -> None:
    table = em.Table("t", dim=1, eviction=em.TTL(days=30, seconds=5))
    store = connect(table, clock=clock)
    store.pull("t", [1])
    clock.now_s += 30 * 86400 + 4
    assert store.evict("t") == 0
    clock.now_s += 1
    assert store.evict("t") == 1


def test_a_key_pushed_beside_its_expired_neighbours_keeps_its_own_record(
    connect: Any, clock: Any
) -> None:
    """Records of deleted rows are used again within the batch that deletes them."""
    table = em.Table(
        "t", dim=3, optimizer=em.optim.SGD(lr=1.0), eviction=em.TTL(seconds=100),
        initializer=em.init.Zeros(),
    )  # fmt: skip
    store = connect(table, clock=clock)
    keys = np.arange(4000, dtype=np.uint64)
    values = keys.astype(np.float32)[:, None] * np.ones(3, np.float32)
    store.push("t", keys[::2], -values[::2])
    clock.now_s += 60
    store.push("t", keys[1::2], -values[1::2])
    clock.now_s += 60
    order = np.random.default_rng(0).permutation(4000)
    store.push("t", keys[order], -values[order])
    expected = values * (1 + keys % 2).astype(np.float32)[:, None]
    np.testing.assert_array_equal(store.pull("t", keys), expected)
    assert counters(store)["evicted"] == 2000
    assert counters(store)["rows"] == 4000


@pytest.mark.parametrize("now", [-1.0, 2.0**32, float("nan"), float("inf")], ids=str)
def test_a_clock_that_does_not_tell_the_seconds_since_1970_is_refused(
    connect: Any, now: float
) -> None:
    store = connect(em.Table("t", dim=1), clock=lambda: now)
    with pytest.raises(em.InvalidArgument, match="clock of embedded:"):
        store.pull("t", [1])
    assert store.stats()["tables"]["t"]["rows"] == 0
