"""Narrow storage: bounded rounding of first values, unbiased rounding of updates, no infinities."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import embery as em

F32 = NDArray[np.float32]
HALVES = ["float16", "bfloat16"]
NARROW = [*HALVES, "int8"]
LARGEST = {
    "float16": 65504.0,
    "bfloat16": float(torch.finfo(torch.bfloat16).max),
    "float32": float(np.finfo(np.float32).max),
}


def table_of(dtype: Any, dim: int, **fields: Any) -> em.Table:
    fields = {"optimizer": em.optim.SGD(lr=1.0), "initializer": em.init.Zeros(), **fields}
    return em.Table("t", dim=dim, dtype=dtype, **fields)


def unrounded(connect: Any, keys: Any, dim: int, initializer: em.init.Initializer) -> F32:
    return connect(table_of("float32", dim, initializer=initializer)).pull("t", keys)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("std", [1e-7, 1e-5, 1.0, 300.0])
def test_a_half_precision_first_value_is_rounded_as_torch_rounds(
    connect: Any, dtype: str, std: float
) -> None:
    """Nearest, ties to even, subnormal numbers included."""
    keys, initializer = np.arange(3000, dtype=np.uint64), em.init.Normal(std, seed=2)
    store = connect(table_of(dtype, 3, initializer=initializer))
    values = torch.from_numpy(unrounded(connect, keys, 3, initializer))
    expected = values.to(getattr(torch, dtype)).float().numpy()
    assert (abs(expected) <= LARGEST[dtype]).all()
    np.testing.assert_array_equal(store.pull("t", keys), expected)


@pytest.mark.parametrize("dtype", HALVES)
def test_a_first_value_between_two_numbers_goes_to_the_even_one(connect: Any, dtype: str) -> None:
    unit = {"float16": 2.0**-10, "bfloat16": 2.0**-7}[dtype]
    for half_units, expected in ((1, 0), (3, 4), (5, 4), (7, 8)):
        value = 1 + half_units * unit / 2
        store = connect(table_of(dtype, 1, initializer=em.init.Constant(value)))
        assert store.pull("t", [1])[0, 0] == 1 + expected * unit / 2


@pytest.mark.parametrize("dim", [1, 2, 3, 4, 5, 16, 33])
def test_an_int8_first_value_is_within_half_a_quantum(connect: Any, dim: int) -> None:
    """A quantum is a 127th of the row's largest value, which itself comes back exactly."""
    keys, initializer = np.arange(500, dtype=np.uint64), em.init.Normal(3.0, seed=2)
    rows = connect(table_of("int8", dim, initializer=initializer)).pull("t", keys)
    exact = unrounded(connect, keys, dim, initializer)
    quantum = abs(exact).max(axis=1, keepdims=True) / 127
    assert (abs(rows - exact) <= quantum * (0.5 + 1e-5)).all()
    np.testing.assert_allclose(abs(rows).max(axis=1), abs(exact).max(axis=1), rtol=3e-7)


@pytest.mark.parametrize("dtype", NARROW)
def test_pull_gives_what_is_stored_and_inspect_shows_the_same(connect: Any, dtype: str) -> None:
    store = connect(table_of(dtype, 5, initializer=em.init.Normal(1.0)))
    rows = store.pull("t", [1, 2])
    np.testing.assert_array_equal(store.pull("t", [1, 2]), rows)
    np.testing.assert_array_equal(store.pull("t", [2, 1], train=False), rows[::-1])
    for i, key in enumerate((1, 2)):
        assert store.inspect("t", key)["values"] == rows[i].tolist()


@pytest.mark.parametrize("dtype", NARROW)
def test_updates_below_half_a_unit_move_rows_by_their_sum(connect: Any, dtype: str) -> None:
    """Rounding to nearest would never move them; stochastic rounding does, without bias.

    500 rows, 200 steps of a twentieth of a unit: 10 units each. A step's rounding has a variance of
    at most a quarter of a square unit, so the mean of the rows has a standard error below 0.32.
    """
    unit = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "int8": 2.0**-6}[dtype]
    # The second column is 127 quanta of int8 throughout, which fixes the row's scale.
    start = np.float32(1.0)
    store = connect(table_of(dtype, 2))
    keys = np.arange(500, dtype=np.uint64)
    store.push("t", keys, np.tile(np.array([-start, -127 * unit], np.float32), (500, 1)))
    if dtype == "int8":
        assert (store.pull("t", keys)[:, 0] == start).all()
    step = np.tile(np.array([-unit / 20, 0], np.float32), (500, 1))
    for _ in range(200):
        store.push("t", keys, step)
    moved = (store.pull("t", keys)[:, 0] - start) / unit
    error = (200 * 0.05 * 0.95 / 500) ** 0.5
    assert abs(moved.mean() - 10) < 4 * error
    assert 1 < moved.std() < 2 * (200 * 0.05 * 0.95) ** 0.5
    assert (moved == np.round(moved)).all()


@pytest.mark.parametrize("dtype", NARROW)
def test_an_update_that_gives_a_stored_number_is_exact(connect: Any, dtype: str) -> None:
    """Noise rounds what lies between two numbers, and nothing else."""
    store = connect(table_of(dtype, 2))
    for step in range(1, 64):
        store.push("t", [1], np.array([[-1.0, -1.0]], np.float32))
        assert store.pull("t", [1]).tolist() == [[step, step]]


@pytest.mark.parametrize("dtype", NARROW)
def test_rounding_differs_over_columns_rows_and_updates(connect: Any, dtype: str) -> None:
    store = connect(table_of(dtype, 64))
    grads = np.full((2, 64), -1 - 2.0**-12, np.float32)
    grads[:, 0] = -1.5
    store.push("t", [1, 2], grads)
    first = store.pull("t", [1, 2])
    assert len(np.unique(first[0, 1:])) == 2
    assert (first[0] != first[1]).any()
    # The same row and the same column, one update later.
    store.push("t", [1], -first[:1])
    store.push("t", [1], grads[:1])
    assert (store.pull("t", [1])[0] != first[0]).any()


@pytest.mark.parametrize("dtype", HALVES)
def test_a_value_beyond_the_largest_number_saturates(connect: Any, dtype: str) -> None:
    largest = LARGEST[dtype]
    store = connect(table_of(dtype, 2))
    beyond = np.float32(min(largest * 1.5, LARGEST["float32"]))
    store.push("t", [1], np.array([[-beyond, beyond]], np.float32))
    assert store.pull("t", [1]).tolist() == [[largest, -largest]]
    store.push("t", [1], np.array([[largest, -largest]], np.float32))
    assert store.pull("t", [1]).tolist() == [[0.0, 0.0]]


def test_a_first_value_beyond_the_largest_half_saturates(connect: Any) -> None:
    for value in (65519.0, 65520.0, 1e6):
        store = connect(table_of("float16", 1, initializer=em.init.Constant(-value)))
        assert store.pull("t", [1])[0, 0] == -65504.0


@pytest.mark.parametrize("dtype", NARROW)
def test_a_step_that_overflows_float32_saturates_too(connect: Any, dtype: str) -> None:
    store = connect(table_of(dtype, 3, optimizer=em.optim.SGD(lr=10.0)))
    for _ in range(2):
        store.push("t", [1], np.array([[3e38, -3e38, 1]], np.float32))
        assert np.isfinite(store.pull("t", [1])).all()


def test_the_largest_numbers_are_finite_in_int8(connect: Any) -> None:
    """127 quanta of a rounded scale must not exceed the largest float: the last 256th saturates."""
    store = connect(table_of("int8", 2))
    sizes = np.linspace(3.3e38, LARGEST["float32"], 3000).astype(np.float32)
    keys = np.arange(len(sizes), dtype=np.uint64)
    store.push("t", keys, np.stack([sizes, -sizes], axis=1))
    np.testing.assert_allclose(store.pull("t", keys)[:, 1], sizes, rtol=1 / 256)


@pytest.mark.parametrize("dtype", ["float32", *NARROW])
def test_zeros_of_a_row_stay_zeros(connect: Any, dtype: str) -> None:
    store = connect(table_of(dtype, 3))
    assert (store.pull("t", [1]) == 0).all()
    store.push("t", [1], np.zeros((1, 3), np.float32))
    assert (store.pull("t", [1]) == 0).all()
    store.push("t", [1], np.array([[0, 0, 1]], np.float32))
    assert store.pull("t", [1]).tolist() == [[0, 0, -1]]


@pytest.mark.parametrize("magnitude", [1e-44, 1e-38, 1e-30, 1e-3, 1e10, 1e38])
def test_int8_rows_of_any_magnitude_are_finite_and_close(connect: Any, magnitude: float) -> None:
    store = connect(table_of("int8", 4))
    row = np.array([[1.0, -0.5, 0.25, 0.0]], np.float32) * np.float32(magnitude)
    store.push("t", [1], -row)
    # A row whose largest value is below 1e-30 counts as zero.
    quantum = max(magnitude / 127 * 1.001, 1e-30)
    assert (abs(store.pull("t", [1]) - row) <= quantum).all()


@pytest.mark.parametrize("dtype", NARROW)
def test_a_narrow_table_takes_fewer_bytes_a_row(connect: Any, dtype: str) -> None:
    keys = np.arange(200_000, dtype=np.uint64)
    sizes = {}
    for kind in ("float32", dtype):
        store = connect(table_of(kind, 32))
        store.pull("t", keys)
        sizes[kind] = store.stats()["tables"]["t"]["bytes"] / keys.size
    saved = {"float16": 64, "bfloat16": 64, "int8": 92}[dtype]
    assert sizes["float32"] - sizes[dtype] == pytest.approx(saved, rel=0.15)
