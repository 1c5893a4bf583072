"""Rows and gradients that travel in 16 or 8 bits: what arrives, what adds up, what it saves."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import embery as em
from embery import _native

F32 = NDArray[np.float32]
NARROW = ["float16", "bfloat16", "int8"]
ROW_BYTES = {"float32": 64, "float16": 32, "bfloat16": 32, "int8": 20}  # Of dim 16.


def rounded(rows: F32, encoding: str) -> F32:
    """Return rows (n, dim) as they arrive when they travel in an encoding."""
    if encoding == "float32":
        return rows
    if encoding == "float16":
        return np.clip(rows, -65504, 65504).astype(np.float16).astype(np.float32)
    if encoding == "bfloat16":
        bits = rows.view(np.uint32)
        upper = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(
            16
        )
        return (upper << np.uint32(16)).view(np.float32)
    largest = np.abs(rows).max(axis=1, keepdims=True)
    scale = largest / np.float32(127)
    quanta = np.floor(rows * (np.float32(127) / largest) + np.float32(128) + np.float32(0.5))
    return np.asarray((quanta - 128) * scale, np.float32)


def summing(name: str = "sums", *, dim: int = 16, **options: Any) -> em.Table:
    """Return a table whose rows are the sums of what was pushed."""
    return em.Table(
        name, dim=dim, optimizer=em.optim.SGD(lr=1.0), initializer=em.init.Zeros(), **options
    )


def sums(plane: Any, client: Any, keys: NDArray[np.uint64], table: str = "sums") -> F32:
    return np.asarray(-plane.pull(client, {table: keys}, "eval")[table])


def some_keys(count: int) -> NDArray[np.uint64]:
    return np.arange(count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("encoding", ["float32", *NARROW])
def test_rows_arrive_rounded_to_their_encoding(make_plane: Any, encoding: str, mode: str) -> None:
    table = em.Table("item", dim=16, initializer=em.init.Normal(0.1, seed=3))
    plane = make_plane([table], servers=2)
    exact, narrow = plane.client(1), plane.client(2)
    plane.set_wire(narrow, "item", rows=encoding)
    keys = np.concatenate([some_keys(700), some_keys(50)])
    first = plane.pull(narrow, {"item": keys}, mode)["item"]
    if mode == "eval":
        assert not first.any()
        plane.pull(exact, {"item": keys}, "train")
        first = plane.pull(narrow, {"item": keys}, mode)["item"]
    expected = rounded(plane.pull(exact, {"item": keys}, "eval")["item"], encoding)
    assert first.tobytes() == expected.tobytes()


def test_rows_that_are_stored_so_lose_nothing_more(make_plane: Any) -> None:
    table = em.Table("item", dim=7, initializer=em.init.Normal(0.1, seed=3), dtype="int8")
    plane = make_plane([table], servers=2)
    exact, narrow = plane.client(1), plane.client(2)
    plane.set_wire(narrow, "item", rows="int8")
    keys = {"item": some_keys(500)}
    expected = plane.pull(exact, keys)["item"]
    assert plane.pull(narrow, keys)["item"].tobytes() == expected.tobytes()


@pytest.mark.parametrize("dim", [1, 3, 16])
@pytest.mark.parametrize("encoding", NARROW)
def test_a_sum_of_gradients_is_rounded_once(make_plane: Any, encoding: str, dim: int) -> None:
    plane = make_plane([summing(dim=dim)], servers=2)
    client = plane.client()
    plane.set_wire(client, "sums", grads=encoding, residual_rows_max=0)
    grads = np.random.default_rng(1).normal(size=(600, dim)).astype(np.float32)
    distinct = some_keys(200)
    plane.push(client, {"sums": np.tile(distinct, 3)}, {"sums": grads})
    total = (grads[:200] + grads[200:400]) + grads[400:]
    assert np.array_equal(sums(plane, client, distinct), rounded(total, encoding))
    assert client.stats()["residual_rows"] == 0


@pytest.mark.parametrize("encoding", NARROW)
def test_with_feedback_many_pushes_add_up_and_without_they_do_not(
    make_plane: Any, encoding: str
) -> None:
    plane = make_plane([summing()], servers=2)
    keys, pushes = some_keys(40), 400
    grads = np.random.default_rng(2).normal(size=(40, 16)).astype(np.float32)
    exact = grads.astype(np.float64) * pushes
    errors = []
    for number, residual_rows_max in ((1, 1000), (2, 0)):
        client = plane.client(number)
        plane.set_wire(client, "sums", grads=encoding, residual_rows_max=residual_rows_max)
        before = sums(plane, client, keys)
        for _ in range(pushes):
            plane.push(client, {"sums": keys}, {"sums": grads})
        errors.append(np.abs(sums(plane, client, keys) - before - exact).max())
        assert client.stats()["residual_rows"] == (40 if residual_rows_max else 0)
    # One residual, and what float32 rounds in 400 additions.
    assert errors[0] < 0.02
    assert errors[1] > 10 * errors[0]


@pytest.mark.parametrize("encoding", ["float32", *NARROW])
def test_gradients_that_are_not_finite_are_known_as_such(make_plane: Any, encoding: str) -> None:
    plane = make_plane([summing(), summing("strict", nonfinite="raise")], servers=2)
    client = plane.client()
    for name in ("sums", "strict"):
        plane.set_wire(client, name, grads=encoding, residual_rows_max=100)
    keys, grads = some_keys(4), np.ones((4, 16), np.float32)
    for i, bad in enumerate((np.nan, np.inf, -np.inf)):
        grads[i, 5] = bad
    plane.push(client, {"sums": keys}, {"sums": grads})
    assert np.array_equal(sums(plane, client, keys), [[0.0] * 16] * 3 + [[1.0] * 16])
    assert sum(store.stats(0)["nonfinite"] for store in plane.stores) == 3
    with pytest.raises(em.InvalidArgument, match="not finite"):
        plane.push(client, {"strict": keys[:1]}, {"strict": grads[:1]})


@pytest.mark.parametrize("encoding", NARROW)
def test_a_push_that_is_sent_again_counts_its_residual_once(make_plane: Any, encoding: str) -> None:
    plane = make_plane([summing(), summing("undisturbed")], servers=2)
    moving, quiet = plane.client(1), plane.client(2)
    for client, name in ((moving, "sums"), (quiet, "undisturbed")):
        plane.set_wire(client, name, grads=encoding, residual_rows_max=1000)
    keys = some_keys(300)
    random = np.random.default_rng(3)
    version, owners = 1, plane.owners
    salts, dims = plane.arguments(["sums"])
    # Rows do not move with the slots here, they go: what matters is what arrived in all.
    arrived, expected = np.zeros((300, 16)), np.zeros((300, 16))

    def count_rows() -> None:
        for store in plane.stores:
            np.add(arrived, store_sums(store, 0, keys), out=arrived)
            np.add(expected, store_sums(store, 1, keys), out=expected)

    for push in range(10):
        grads = random.normal(size=(300, 16)).astype(np.float32)
        plane.push(quiet, {"undisturbed": keys}, {"undisturbed": grads})
        if push % 2:
            # The servers change places, and the client has not heard of it.
            version, owners = version + 1, np.asarray(1 - owners, np.uint16)
            count_rows()
            plane.move(version, owners)
            quiet.set_routing(version, owners)
        arguments: dict[str, Any] = {
            "sequence": push, "round": 0, "rank": 0, "world": 1, "now_s": 1, "timeout_s": 30.0
        }  # fmt: skip
        refused = np.zeros(300, np.uint8)
        count = moving.push(salts, dims, [keys], [grads], refused=[refused], **arguments)
        assert count == (300 if push % 2 else 0)
        if count:
            moving.set_routing(version, owners)
            again = np.flatnonzero(refused)
            assert moving.push(salts, dims, [keys[again]], [grads[again]], **arguments) == 0
    count_rows()
    assert np.allclose(arrived, expected, rtol=0, atol=1e-5)


def test_a_push_that_a_server_has_applied_before_the_other_leaves_the_right_residuals(
    make_plane: Any,
) -> None:
    """It comes again under its sequence; the first server knows it, and got the same bytes."""
    tables = [summing(name, nonfinite="raise") for name in ("sums", "undisturbed")]
    plane = make_plane(tables, servers=2)
    client, quiet = plane.client(1), plane.client(2)
    plane.set_wire(client, "sums", grads="int8")
    plane.set_wire(quiet, "undisturbed", grads="int8")
    keys = some_keys(100)
    good = np.random.default_rng(5).normal(size=(4, 100, 16)).astype(np.float32)
    salts, dims = plane.arguments(["sums"])
    arguments: dict[str, Any] = {
        "round": 0, "rank": 0, "world": 1, "now_s": 1, "timeout_s": 30.0
    }  # fmt: skip
    last = np.flatnonzero(plane.owners[_native.slots_of("sums", keys)] == 1)[0]
    for push in range(4):
        bad = good[push].copy()
        bad[last] = np.nan
        with pytest.raises(em.InvalidArgument, match="not finite"):
            client.push(salts, dims, [keys], [bad], sequence=1 + push, **arguments)
        client.push(salts, dims, [keys], [good[push]], sequence=1 + push, **arguments)
        plane.push(quiet, {"undisturbed": keys}, {"undisturbed": good[push]})
    assert np.array_equal(sums(plane, client, keys), sums(plane, client, keys, "undisturbed"))


def test_a_push_that_nobody_answered_leaves_the_residuals_as_they_were(make_plane: Any) -> None:
    """It may come again under its sequence, and must then be the same bytes."""
    plane = make_plane([summing(), summing("undisturbed")], servers=2)
    client = plane.client()
    for name in ("sums", "undisturbed"):
        plane.set_wire(client, name, grads="int8")
    keys = some_keys(100)
    grads = np.random.default_rng(4).normal(size=(3, 100, 16)).astype(np.float32)
    for push in range(2):
        for name in ("sums", "undisturbed"):
            plane.push(client, {name: keys}, {name: grads[push]})
        with pytest.raises(em.DeadlineExceeded):
            # Of a group whose other worker never comes.
            plane.push(client, {"sums": keys}, {"sums": grads[2]}, group=(1, 0, 2), timeout_s=0.2)
    assert np.array_equal(sums(plane, client, keys), sums(plane, client, keys, "undisturbed"))


def store_sums(store: Any, table_id: int, keys: NDArray[np.uint64]) -> F32:
    out = np.empty((len(keys), 16), np.float32)
    store.pull([table_id], [keys], [out], "eval", 1)
    return -out


@pytest.mark.parametrize("encoding", NARROW)
def test_workers_of_a_group_encode_each_their_own(make_plane: Any, encoding: str) -> None:
    """Repeated keys too: the server sums what has arrived, in the order of the ranks."""
    plane = make_plane([summing()], servers=2)
    clients = [plane.client(rank) for rank in range(2)]
    plane.set_wire(clients[0], "sums", grads=encoding, residual_rows_max=0)
    keys = np.repeat(some_keys(50), 2)
    shares = [np.random.default_rng(r).normal(size=(100, 16)).astype(np.float32) for r in range(2)]
    with ThreadPoolExecutor(2) as pool:
        for done in [
            pool.submit(
                plane.push, clients[r], {"sums": keys}, {"sums": shares[r]}, group=(0, r, 2)
            )
            for r in range(2)
        ]:
            done.result()
    parts = [rounded(shares[0], encoding), shares[1]]
    expected = ((parts[0][::2] + parts[0][1::2]) + parts[1][::2]) + parts[1][1::2]
    assert np.array_equal(sums(plane, clients[1], some_keys(50)), expected)


@pytest.mark.parametrize("encoding", ["float32", *NARROW])
def test_bytes_are_those_of_the_encoding(make_plane: Any, encoding: str) -> None:
    plane = make_plane([summing()], servers=1)
    client = plane.client()
    plane.set_wire(client, "sums", rows=encoding, grads=encoding)
    keys = some_keys(1000)
    plane.pull(client, {"sums": keys})
    pulled = client.stats()
    plane.push(client, {"sums": keys}, {"sums": np.ones((1000, 16), np.float32)})
    pushed = client.stats()
    header, section, pull_head, push_head, reply_head = 24, 24, 24, 48, 32
    assert pulled["bytes_sent"] == header + pull_head + section + 8 * 1000
    assert pulled["bytes_received"] == header + reply_head + ROW_BYTES[encoding] * 1000
    sent = pushed["bytes_sent"] - pulled["bytes_sent"]
    assert sent == header + push_head + section + (8 + ROW_BYTES[encoding]) * 1000


def test_a_wire_of_another_dim_is_refused_before_anything_is_sent(make_plane: Any) -> None:
    plane = make_plane([summing()], servers=1)
    client = plane.client()
    client.set_wire(_native.table_salt("sums"), 8, "int8", "int8", 100)
    with pytest.raises(em.InvalidArgument, match="set for rows of 8 columns, the call has 16"):
        plane.pull(client, {"sums": some_keys(1)})
    assert client.stats()["requests"] == 0
