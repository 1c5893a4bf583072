"""RowwiseAdagrad, FTRL and decayed LazyAdam against NumPy: what torch has no counterpart of.

The reference follows the formulas of embery/optim.py in float32; what may differ is the order of
RowwiseAdagrad's sum over columns, hence the tolerance of a few units in the last place a step.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import embery as em

F32 = NDArray[np.float32]
STEPS = 80
KEYS = np.arange(10, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
DIMS = (1, 3, 16, 64, 100)
RTOL, ATOL = 1e-5, 1e-6


@dataclass
class Row:
    """One row of the reference: its values and state, moved by `step`."""

    w: F32
    state: dict[str, F32] = field(default_factory=dict)


def rowwise_adagrad(o: em.optim.RowwiseAdagrad, row: Row, g: F32, step: int) -> None:
    s = row.state.setdefault("s", np.full(1, o.initial_accumulator, np.float32))
    g = g + np.float32(o.weight_decay) * row.w
    s += np.mean(g * g, dtype=np.float32)
    row.w -= np.float32(o.lr) * g / (np.sqrt(s) + np.float32(o.eps))


def lazy_adam(o: em.optim.LazyAdam, row: Row, g: F32, step: int) -> None:
    m = row.state.setdefault("m", np.zeros_like(g))
    v = row.state.setdefault("v", np.zeros_like(g))
    g = g + np.float32(o.weight_decay) * row.w
    m[:] = np.float32(o.beta1) * m + np.float32(1 - o.beta1) * g
    v[:] = np.float32(o.beta2) * v + np.float32(1 - o.beta2) * g * g
    root = np.sqrt(v) / np.float32((1 - o.beta2**step) ** 0.5)
    row.w -= np.float32(o.lr / (1 - o.beta1**step)) * m / (root + np.float32(o.eps))


def ftrl_weight(o: em.optim.FTRL, z: F32, n: F32) -> F32:
    shrunk = -(z - np.sign(z) * np.float32(o.l1))
    curve = (np.float32(o.beta) + np.sqrt(n)) / np.float32(o.lr) + np.float32(o.l2)
    return np.where(np.abs(z) <= np.float32(o.l1), np.float32(0), shrunk / curve)


def ftrl(o: em.optim.FTRL, row: Row, g: F32, step: int) -> None:
    if not row.state:
        rate = np.float32(o.beta) / np.float32(o.lr) + np.float32(o.l2)
        row.state["z"] = -np.sign(row.w) * (np.abs(row.w) * rate + np.float32(o.l1))
        row.state["n"] = np.zeros_like(g)
    z, n = row.state["z"], row.state["n"]
    grown = n + g * g
    sigma = (np.sqrt(grown) - np.sqrt(n)) / np.float32(o.lr)
    z += g - sigma * row.w
    n[:] = grown
    row.w[:] = ftrl_weight(o, z, n)


REFERENCE = {
    em.optim.RowwiseAdagrad: rowwise_adagrad,
    em.optim.LazyAdam: lazy_adam,
    em.optim.FTRL: ftrl,
}


def assert_close(actual: Any, expected: Any, where: str) -> None:
    actual = np.asarray(actual, np.float32)
    np.testing.assert_allclose(actual, expected, rtol=RTOL, atol=ATOL, err_msg=where)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize(
    "optimizer",
    [
        em.optim.RowwiseAdagrad(lr=0.05),
        em.optim.RowwiseAdagrad(lr=0.1, eps=1e-3, initial_accumulator=0.5, weight_decay=0.1),
        em.optim.LazyAdam(lr=0.01, weight_decay=0.1),
        em.optim.FTRL(lr=0.1),
        em.optim.FTRL(lr=0.1, l1=0.3, l2=0.2, beta=0.5),
        em.optim.FTRL(lr=0.5, l1=1.0),
    ],
    ids=str,
)
def test_each_row_follows_the_formula(connect: Any, dim: int, optimizer: Any) -> None:
    table = em.Table("t", dim=dim, optimizer=optimizer, initializer=em.init.Normal(0.2, seed=3))
    store = connect(table)
    first = store.pull("t", KEYS)
    rows = {key: Row(first[i].copy()) for i, key in enumerate(KEYS.tolist())}
    updates = dict.fromkeys(rows, 0)
    rng = np.random.default_rng(dim)
    for step in range(1, STEPS + 1):
        keys = KEYS[rng.integers(0, len(KEYS), 16)]
        grads = rng.standard_normal((16, dim)).astype(np.float32)
        grads[rng.random(16) < 0.1] = 0
        store.push("t", keys, grads)
        sums: dict[int, F32] = {}
        for key, grad in zip(keys.tolist(), grads, strict=True):
            sums[key] = sums[key] + grad if key in sums else grad.copy()
        for key, grad in sums.items():
            REFERENCE[type(optimizer)](optimizer, rows[key], grad, step)
            updates[key] += 1
    assert max(updates.values()) >= 50
    pulled = store.pull("t", KEYS)
    for i, (key, row) in enumerate(rows.items()):
        shown = store.inspect("t", key)
        assert shown["updates"] == updates[key]
        assert_close(pulled[i], row.w, f"row {key}")
        assert shown["state"].keys() == row.state.keys()
        for part, values in row.state.items():
            assert_close(shown["state"][part], values, f"{part} of {key}")


@pytest.mark.parametrize("l1", [0.0, 0.25])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_first_value_under_ftrl_stands_until_the_first_update(
    connect: Any, l1: float, dtype: Any
) -> None:
    """The first z gives back the value that is stored, and a tiny gradient moves it a little."""
    optimizer = em.optim.FTRL(lr=0.1, l1=l1, l2=0.5)
    table = em.Table(
        "t", dim=8, dtype=dtype, optimizer=optimizer, initializer=em.init.Normal(0.5, seed=1)
    )
    store = connect(table)
    first = store.pull("t", KEYS)
    for i, key in enumerate(KEYS.tolist()):
        state = store.inspect("t", key)["state"]
        z, n = (np.array(state[part], np.float32) for part in ("z", "n"))
        np.testing.assert_allclose(ftrl_weight(optimizer, z, n), first[i], rtol=1e-6, atol=1e-7)
    store.push("t", KEYS, np.full((len(KEYS), 8), 1e-6, np.float32))
    # 8 bits of a row whose largest value is below 3: one quantum at the most.
    quantum = {"float32": 0.0, "float16": 2.0**-10, "int8": 3 / 127}[dtype]
    np.testing.assert_allclose(store.pull("t", KEYS), first, rtol=1e-5, atol=1e-5 + quantum)


def test_ftrl_with_strong_l1_gives_exact_zeros(connect: Any) -> None:
    optimizer = em.optim.FTRL(lr=0.1, l1=5.0)
    table = em.Table("t", dim=4, optimizer=optimizer, initializer=em.init.Zeros())
    store = connect(table)
    strong = np.array([[0.1, -0.1, 10.0, -10.0]], np.float32)
    for _ in range(10):
        store.push("t", [1], strong)
    row = store.pull("t", [1])[0]
    assert row[:2].tolist() == [0.0, 0.0]
    assert row[2] < 0 < row[3]


@pytest.mark.parametrize(
    ("optimizer", "floats"),
    [
        (em.optim.SGD(), {}),
        (em.optim.Momentum(), {"m": 5}),
        (em.optim.Adagrad(initial_accumulator=0.25), {"s": 5}),
        (em.optim.RowwiseAdagrad(initial_accumulator=0.25), {"s": 1}),
        (em.optim.Adam(), {"m": 5, "v": 5}),
        (em.optim.LazyAdam(), {"m": 5, "v": 5}),
        (em.optim.AdamW(), {"m": 5, "v": 5}),
        (em.optim.FTRL(), {"z": 5, "n": 5}),
    ],
    ids=str,
)
def test_inspect_names_the_state_of_a_fresh_row(
    connect: Any, optimizer: em.optim.Optimizer, floats: dict[str, int]
) -> None:
    table = em.Table("t", dim=5, optimizer=optimizer, initializer=em.init.Zeros())
    store = connect(table)
    store.pull("t", [4])
    state = store.inspect("t", 4)["state"]
    assert {part: len(values) for part, values in state.items()} == floats
    assert optimizer.state_floats(5) == sum(floats.values())
    start = getattr(optimizer, "initial_accumulator", 0.0)
    assert all(value == start for values in state.values() for value in values)
