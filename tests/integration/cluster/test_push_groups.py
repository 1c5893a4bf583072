"""The pushes of workers that step together are applied as one, in rank order."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import embery as em
from embery import _native

NOW_S = 1_700_000_000
TABLES = (
    em.Table("item", dim=8, optimizer=em.optim.Adam(lr=0.05), initializer=em.init.Uniform(0.1)),
    em.Table("user", dim=3, optimizer=em.optim.RowwiseAdagrad(lr=0.1)),
)


def share(generator: np.random.Generator) -> tuple[dict[str, Any], dict[str, Any]]:
    keys = {t.name: generator.integers(0, 40, generator.integers(0, 99), np.uint64) for t in TABLES}
    grads = {t.name: generator.normal(size=(len(keys[t.name]), t.dim)) for t in TABLES}
    return keys, {name: rows.astype(np.float32) for name, rows in grads.items()}


def joined(parts: list[dict[str, Any]]) -> list[Any]:
    return [np.concatenate([part[t.name] for part in parts]) for t in TABLES]


def rows_of(columns: dict[str, Any]) -> dict[int, tuple[bytes, ...]]:
    return {
        int(key): tuple(columns[c][i].tobytes() for c in sorted(columns) if c != "key")
        for i, key in enumerate(columns["key"])
    }


@pytest.mark.parametrize("servers", [1, 3])
@pytest.mark.parametrize("world", [2, 3])
def test_a_round_gives_the_bits_of_one_push_in_rank_order(
    make_plane: Any, servers: int, world: int
) -> None:
    plane = make_plane(TABLES, servers=servers)
    clients = [plane.client(rank) for rank in range(world)]
    embedded = _native.Store(1, "auto")
    ids = [embedded.create_table(table.to_dict()) for table in TABLES]
    generator = np.random.default_rng(2)
    with ThreadPoolExecutor(world) as pool:
        for turn in range(8):
            shares = [share(generator) for _ in range(world)]
            ranks = generator.permutation(world)
            pushes = [
                pool.submit(plane.push, clients[r], *shares[r], group=(turn, int(r), world))
                for r in ranks
            ]
            for push in pushes:
                push.result()
            keys, grads = zip(*shares, strict=True)
            embedded.push(ids, joined(list(keys)), joined(list(grads)), NOW_S)
    for table, table_id in zip(TABLES, ids, strict=True):
        expected = rows_of(embedded.export_rows(table_id, 0, 4096))
        assert expected
        assert plane.rows(table.name) == expected


@pytest.fixture
def pushing(make_plane: Any) -> Any:
    """Return a plane and a function that starts a push of one key by a rank of two."""
    plane = make_plane(TABLES, servers=1)
    keys = {"item": np.array([7], np.uint64)}
    grads = {"item": np.ones((1, 8), np.float32)}
    pool = ThreadPoolExecutor(4)

    def push(client: Any, turn: int, rank: int, timeout_s: float = 30.0) -> Future[None]:
        group = (turn, rank, 2)
        return pool.submit(plane.push, client, keys, grads, group=group, timeout_s=timeout_s)

    yield plane, push
    pool.shutdown()


def requests(plane: Any) -> int:
    return int(plane.servers[0].stats()["requests"])


def wait_for(condition: Callable[[], bool], future: Future[None]) -> None:
    """Wait until the condition holds, which comes before the future is done."""
    while not condition():
        assert not future.done(), future.result()


def test_nothing_is_applied_before_all_ranks_are_in(pushing: Any) -> None:
    plane, push = pushing
    first = push(plane.client(1), 5, 1)
    wait_for(lambda: requests(plane) == 1, first)
    assert plane.rows("item") == {}
    second = push(plane.client(2), 5, 0)
    first.result()
    second.result()
    assert list(plane.rows("item")) == [7]


def test_a_worker_that_goes_on_gives_up_the_round_before(pushing: Any) -> None:
    plane, push = pushing
    abandoned = push(plane.client(1), 5, 0)
    wait_for(lambda: requests(plane) == 1, abandoned)
    ahead = push(plane.client(1), 6, 0)
    with pytest.raises(em.Unavailable, match="went on without it"):
        abandoned.result(30)
    push(plane.client(2), 6, 1).result(30)
    ahead.result(30)
    assert list(plane.rows("item")) == [7]


def test_two_clients_of_one_rank_are_an_error_of_the_second(pushing: Any) -> None:
    plane, push = pushing
    first = push(plane.client(1), 5, 0)
    wait_for(lambda: requests(plane) == 1, first)
    with pytest.raises(em.InvalidArgument, match="another client has pushed as this rank"):
        push(plane.client(2), 5, 0).result(30)
    push(plane.client(2), 5, 1).result(30)
    first.result(30)


def test_a_server_that_stops_fails_the_pushes_that_wait(pushing: Any) -> None:
    plane, push = pushing
    waiting = push(plane.client(1), 5, 0)
    wait_for(lambda: requests(plane) == 1, waiting)
    plane.servers[0].stop()
    with pytest.raises(em.Unavailable, match="server 0"):
        waiting.result(30)


@pytest.mark.parametrize("transport", ["tcp"], indirect=False)
def test_a_rank_that_does_not_come_exceeds_the_deadline_of_the_others(pushing: Any) -> None:
    plane, push = pushing
    client = plane.client(1)
    with pytest.raises(em.DeadlineExceeded, match="server 0 at"):
        push(client, 5, 0, timeout_s=0.05).result(30)
    # A second try takes the place of the first.
    again = push(client, 5, 0)
    wait_for(lambda: requests(plane) == 2, again)
    push(plane.client(2), 5, 1).result(30)
    again.result(30)
    assert list(plane.rows("item")) == [7]


@pytest.mark.parametrize("transport", ["tcp"], indirect=False)
def test_another_worker_may_take_the_rank_of_one_that_is_gone(pushing: Any) -> None:
    plane, push = pushing
    with pytest.raises(em.DeadlineExceeded):
        push(plane.client(1), 5, 0, timeout_s=0.05).result(30)
    while plane.servers[0].stats()["connections"] > 0:
        pass  # The pytest timeout ends this if it never comes true.
    first, second = push(plane.client(3), 5, 0), push(plane.client(2), 5, 1)
    first.result(30)
    second.result(30)
    assert list(plane.rows("item")) == [7]
