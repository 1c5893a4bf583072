"""Arrays of numpy, torch, Arrow and the buffer protocol are taken alike."""

from __future__ import annotations

import array
import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

import embery as em

TABLE = em.Table("t", dim=3, optimizer=em.optim.SGD(lr=1.0), initializer=em.init.Zeros())
KEYS = [3, 0, 2**62, 3, 9]
GRADS = np.arange(15, dtype=np.float32).reshape(5, 3)

AS_KEYS: dict[str, Callable[[list[int]], Any]] = {
    "list": list,
    "numpy uint64": lambda k: np.array(k, np.uint64),
    "numpy int64": lambda k: np.array(k, np.int64),
    "numpy strided": lambda k: np.repeat(np.array(k, np.uint64), 3)[1::3],
    "numpy backwards": lambda k: np.array(k[::-1], np.int64)[::-1],
    "numpy column": lambda k: np.array([k, k], np.int64).T[:, 1],
    "numpy unaligned": lambda k: np.frombuffer(b"." + np.array(k).tobytes(), np.int64, offset=1),
    "numpy read-only": lambda k: np.frombuffer(np.array(k, np.uint64).tobytes(), np.uint64),
    "torch int64": torch.tensor,
    "torch uint64": lambda k: torch.tensor(k, dtype=torch.uint64),
    "torch strided": lambda k: torch.tensor([k, k]).T.contiguous()[:, 0],
    "Arrow uint64": lambda k: pa.array(k, pa.uint64()),
    "Arrow int64": lambda k: pa.array(k, pa.int64()),
    "Arrow slice": lambda k: pa.array([7, 7, *k, 7], pa.uint64()).slice(2, len(k)),
    "Arrow chunked": lambda k: pa.chunked_array([k[:2], k[2:]], pa.int64()),
    "memoryview": lambda k: memoryview(np.array(k, np.uint64)),
    "array.array": lambda k: array.array("q", k),
    "ctypes": lambda k: (ctypes.c_uint64 * len(k))(*k),
}

AS_GRADS: dict[str, Callable[[Any], Any]] = {
    "numpy": lambda g: g,
    "numpy Fortran": np.asfortranarray,
    "numpy strided": lambda g: np.repeat(g, 2, axis=1)[:, ::2],
    "numpy broadcast": lambda g: np.broadcast_to(g[:, None], (5, 2, 3))[:, 1],
    "numpy unaligned": lambda g: np.frombuffer(b"." + g.tobytes(), np.float32, offset=1).reshape(
        5, 3
    ),
    "torch": torch.from_numpy,
    "torch with gradient": lambda g: torch.tensor(g, requires_grad=True),
    "torch inside a graph": lambda g: torch.tensor(g, requires_grad=True) * 1.0,
    "torch transposed": lambda g: torch.from_numpy(g.T.copy()).T,
    "memoryview": memoryview,
}


@pytest.fixture(scope="module")
def expected() -> Any:
    with em.connect("embedded:", threads=1) as store:
        store.create_table(TABLE)
        store.push("t", np.array(KEYS, np.uint64), GRADS)
        return store.pull("t", np.array(KEYS, np.uint64))


@pytest.mark.parametrize("kind", AS_KEYS)
def test_keys_of_every_kind_name_the_same_rows(connect: Any, kind: str, expected: Any) -> None:
    store, keys = connect(TABLE), AS_KEYS[kind](KEYS)
    store.push("t", keys, GRADS)
    np.testing.assert_array_equal(store.pull("t", keys), expected)
    np.testing.assert_array_equal(store.pull("t", np.array(KEYS), train=False), expected)


@pytest.mark.parametrize("kind", AS_GRADS)
def test_gradients_of_every_kind_are_the_same_push(connect: Any, kind: str, expected: Any) -> None:
    store = connect(TABLE)
    store.push("t", KEYS, AS_GRADS[kind](GRADS.copy()))
    np.testing.assert_array_equal(store.pull("t", KEYS), expected)


def test_arguments_are_read_only_to_the_store(connect: Any) -> None:
    store = connect(TABLE)
    keys, grads = np.array(KEYS, np.uint64), GRADS.copy()
    store.push("t", keys, grads)
    store.pull("t", keys)
    assert keys.tolist() == KEYS
    np.testing.assert_array_equal(grads, GRADS)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (np.array([1, 2], np.int32), "must be uint64 or int64, got int32"),
        (np.array([1.0]), "got float64"),
        (np.array([True]), "got bool"),
        (np.array([1], ">i8"), "got >i8"),
        (np.array(["a"]), "must be uint64 or int64"),
        ([-1, 2**64 - 1], "must be uint64 or int64"),
        ([1.5], "got float64"),
        ("abc", "must be uint64 or int64"),
        (b"abc", "must be uint64 or int64"),
        (None, "must be uint64 or int64"),
        ({1, 2}, "must be uint64 or int64"),
        ([[1, 2], [3]], "expected an array"),
        (np.array([[1, 2]]), "must have shape (n,), got (1, 2)"),
        (np.array(5), "must have shape (n,), got ()"),
        (pa.array([1, None], pa.int64()), "must be uint64 or int64"),
        (torch.tensor([1.0]), "got float32"),
        (torch.tensor([1.0], dtype=torch.bfloat16), "expected an array"),
        (torch.eye(2).to_sparse(), "expected an array"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_wrong_keys_are_refused_before_anything_changes(
    connect: Any, snapshot: Any, keys: Any, message: str
) -> None:
    store = connect(TABLE)
    store.push("t", [1], GRADS[:1])
    before = snapshot(store, "t")
    calls: list[Callable[[], object]] = [
        lambda: store.pull("t", keys),
        lambda: store.pull_async("t", keys),
        lambda: store.push("t", keys, GRADS[:1]),
        lambda: store.push_async("t", keys, GRADS[:1]),
    ]
    for call in calls:
        with pytest.raises(em.InvalidArgument) as caught:
            call()
        assert "'t'" in str(caught.value)
        assert "keys" in str(caught.value)
        assert message in str(caught.value)
    assert snapshot(store, "t") == before


def test_keys_that_lie_nowhere_are_refused(connect: Any) -> None:
    store = connect(TABLE)
    with pytest.raises(em.InvalidArgument):
        store.pull("t", torch.ones(2, dtype=torch.int64, device="meta"))


@pytest.mark.parametrize(
    ("grads", "message"),
    [
        (np.ones((2, 3)), "must be float32, got float64"),
        (np.ones((2, 3), np.float16), "got float16"),
        (np.ones((2, 3), np.int32), "got int32"),
        (np.ones((2, 3), ">f4"), "must be float32"),
        (np.ones((2, 4), np.float32), "must have shape (2, 3), got (2, 4)"),
        (np.ones((3, 3), np.float32), "must have shape (2, 3), got (3, 3)"),
        (np.ones((1, 3), np.float32), "must have shape (2, 3), got (1, 3)"),
        (np.ones(6, np.float32), "must have shape (2, 3), got (6,)"),
        (np.ones((1, 2, 3), np.float32), "must have shape (2, 3), got (1, 2, 3)"),
        (torch.ones((2, 3), dtype=torch.float64), "got float64"),
        (torch.ones((2, 3), dtype=torch.bfloat16), "expected an array"),
        (None, "must be float32"),
        ([[1.0] * 3] * 2, "must be float32, got float64"),
    ],
    ids=lambda v: f"{type(v).__name__} {getattr(v, 'dtype', '')} {getattr(v, 'shape', '')}",
)
def test_wrong_gradients_are_refused_before_anything_changes(
    connect: Any, snapshot: Any, grads: Any, message: str
) -> None:
    store = connect(TABLE)
    store.push("t", [1], GRADS[:1])
    before = snapshot(store, "t")
    for push in (store.push, store.push_async):
        with pytest.raises(em.InvalidArgument) as caught:
            push("t", [1, 2], grads)
        assert "push('t'): grads" in str(caught.value)
        assert message in str(caught.value)
    assert snapshot(store, "t") == before


@pytest.mark.parametrize(
    "out",
    [
        np.empty((2, 3), np.float64),
        np.empty((2, 4), np.float32),
        np.empty((3, 3), np.float32),
        np.empty(6, np.float32),
        np.empty((3, 2), np.float32).T,
        np.empty((2, 6), np.float32)[:, ::2],
        np.broadcast_to(np.zeros(3, np.float32), (2, 3)),
        np.frombuffer(bytes(24), np.float32).reshape(2, 3),
        torch.empty(2, 3),
        [[0.0] * 3] * 2,
    ],
    ids=lambda v: f"{type(v).__name__} {getattr(v, 'dtype', '')} {getattr(v, 'shape', '')}",
)
def test_wrong_out_is_refused_before_anything_is_inserted(connect: Any, out: Any) -> None:
    store = connect(TABLE)
    with pytest.raises(em.InvalidArgument, match=r"pull\('t'\): out must be"):
        store.pull("t", [1, 2], out=out)
    assert store.stats()["tables"]["t"]["rows"] == 0


def test_native_batches_refuse_what_does_not_fit_before_anything_changes(
    connect: Any, snapshot: Any
) -> None:
    """What `pull` and `push` check in Python, the native module checks for batches."""
    store = connect(TABLE, em.Table("u", dim=2))
    keys, grads = np.array([1, 2], np.uint64), GRADS[:2].copy()
    before = snapshot(store, "t")
    wrong: list[tuple[list[str], list[Any], list[Any]]] = [
        (["t"], [keys.view(np.int64)], [grads]),
        (["t"], [keys.astype(np.float64)], [grads]),
        (["t"], [keys[::-1]], [grads]),
        (["t"], [keys], [grads.astype(np.float64)]),
        (["t"], [keys], [np.asfortranarray(np.ones((2, 3), np.float32))]),
        (["t"], [keys], [grads[:1]]),
        (["t"], [keys], [np.ones((2, 2), np.float32)]),
        (["t", "u"], [keys], [grads]),
        (["t", "u"], [keys, keys], [grads, grads]),
    ]
    for names, some_keys, rows in wrong:
        with pytest.raises(em.InvalidArgument):
            store.push_batch(names, some_keys, rows)
        with pytest.raises(em.InvalidArgument):
            store.pull_batch(names, some_keys, rows, mode="train")
    with pytest.raises(em.InvalidArgument, match="names table 't' twice"):
        store.push_batch(["t", "t"], [keys, keys], [grads, grads])
    assert snapshot(store, "t") == before
