"""A NaN or an infinity in a gradient never reaches a row: it is counted, or the push is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import embery as em

BAD = [np.nan, -np.nan, np.inf, -np.inf]
OPTIMIZERS = [
    em.optim.SGD(lr=1.0),
    em.optim.Momentum(),
    em.optim.Adagrad(),
    em.optim.RowwiseAdagrad(),
    em.optim.Adam(),
    em.optim.LazyAdam(),
    em.optim.AdamW(),
    em.optim.FTRL(),
]


def table_of(nonfinite: Any, dim: int = 19, **fields: Any) -> em.Table:
    fields = {"optimizer": em.optim.SGD(lr=1.0), "initializer": em.init.Constant(2.0), **fields}
    return em.Table("t", dim=dim, nonfinite=nonfinite, **fields)


def counters(store: Any) -> dict[str, int]:
    return store.stats()["tables"]["t"]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: o.kind)
@pytest.mark.parametrize("bad", BAD, ids=str)
def test_reject_skips_and_counts_the_key_and_applies_the_others(
    connect: Any, snapshot: Any, bad: float, optimizer: em.optim.Optimizer
) -> None:
    """Wherever in the row it stands: in whole lanes and in the rest."""
    for column in (0, 7, 15, 16, 18):
        store, clean = (
            connect(table_of("reject", optimizer=optimizer), clock=lambda: 0.0) for _ in range(2)
        )
        grads = np.ones((3, 19), np.float32)
        grads[1, column] = bad
        store.push("t", [1, 2, 3], grads)
        clean.push("t", [1, 3], grads[[0, 2]])
        assert counters(store)["nonfinite"] == 1
        assert store.inspect("t", 2) is None
        for key in (1, 3):
            assert store.inspect("t", key) == clean.inspect("t", key)


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_one_bad_duplicate_spoils_the_sum_of_its_key_once(connect: Any, bad: float) -> None:
    store = connect(table_of("reject", dim=1))
    store.push("t", [5, 5, 5, 6], np.array([[1], [bad], [bad], [1]], np.float32))
    assert counters(store)["nonfinite"] == 1
    assert counters(store)["updates"] == 1
    assert store.pull("t", [5, 6])[:, 0].tolist() == [2.0, 1.0]


def test_infinities_that_cancel_and_sums_that_overflow_are_rejected(connect: Any) -> None:
    store = connect(table_of("reject", dim=1))
    grads = np.array([[np.inf], [-np.inf], [3e38], [3e38]], np.float32)
    store.push("t", [5, 5, 6, 6], grads)
    assert counters(store)["nonfinite"] == 2
    assert counters(store)["rows"] == 0


def test_a_rejected_gradient_leaves_its_row_and_its_lsn_alone(connect: Any) -> None:
    store = connect(table_of("reject", dim=2))
    store.push("t", [5], np.ones((1, 2), np.float32))
    before = store.inspect("t", 5)
    store.push("t", [5], np.array([[1, np.nan]], np.float32))
    assert store.inspect("t", 5) == before
    assert counters(store)["step"] == 2


def test_a_rejected_gradient_is_no_sighting_for_admission(connect: Any) -> None:
    store = connect(table_of("reject", dim=1, admission=em.MinCount(2)))
    for value in (np.nan, 1.0, np.inf):
        store.push("t", [5], np.array([[value]], np.float32))
    assert counters(store)["rows"] == 0
    assert counters(store)["rejected"] == 1
    assert counters(store)["nonfinite"] == 2


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_raise_refuses_the_whole_push_and_names_key_and_position(
    connect: Any, snapshot: Any, bad: float
) -> None:
    store = connect(table_of("raise", dim=3))
    store.push("t", [1], np.ones((1, 3), np.float32))
    before = snapshot(store, "t")
    grads = np.ones((4, 3), np.float32)
    grads[2, 1] = bad
    with pytest.raises(em.InvalidArgument) as caught:
        store.push("t", np.array([1, 2, 2**64 - 1, 3], np.uint64), grads)
    for part in ("'t'", str(2**64 - 1), "position 2", "not finite", "nothing was applied"):
        assert part in str(caught.value)
    assert snapshot(store, "t") == before


def test_raise_in_one_table_keeps_a_batch_from_all(connect: Any, snapshot: Any) -> None:
    store = connect(table_of("raise", dim=1), em.Table("u", dim=1))
    before = snapshot(store, "u")
    keys, good = np.array([1], np.uint64), np.ones((1, 1), np.float32)
    with pytest.raises(em.InvalidArgument, match="'t'"):
        store.push_batch(["u", "t"], [keys, keys], [good, good * np.float32(np.nan)])
    assert snapshot(store, "u") == before


def test_raise_refuses_a_sum_that_overflows(connect: Any) -> None:
    store = connect(table_of("raise", dim=1))
    grads = np.array([[1], [3e38], [3e38]], np.float32)
    with pytest.raises(em.InvalidArgument, match="sum of the 2 gradients of key 5 is not finite"):
        store.push("t", [4, 5, 5], grads)
    assert counters(store)["rows"] == 0
    assert counters(store)["step"] == 0


def test_the_largest_finite_gradient_is_applied(connect: Any) -> None:
    largest = np.finfo(np.float32).max
    store = connect(table_of("raise", dim=1, initializer=em.init.Zeros()))
    store.push("t", [5], np.full((1, 1), largest, np.float32))
    assert store.pull("t", [5])[0, 0] == -largest


@pytest.mark.parametrize("optimizer", OPTIMIZERS[2:], ids=lambda o: o.kind)
def test_gradients_of_zero_keep_a_row_finite(connect: Any, optimizer: em.optim.Optimizer) -> None:
    """A dead unit upstream sends zeros; 0 / (sqrt(0) + eps) must stay 0."""
    store = connect(table_of("raise", optimizer=optimizer, initializer=em.init.Constant(0.25)))
    for _ in range(3):
        store.push("t", [1], np.zeros((1, 19), np.float32))
    row = store.pull("t", [1])
    assert np.isfinite(row).all()
    np.testing.assert_allclose(row, 0.25, rtol=1e-4)


@pytest.mark.parametrize(
    "make",
    [
        lambda: em.optim.Adagrad(eps=0.0),
        lambda: em.optim.RowwiseAdagrad(eps=1e-50),
        lambda: em.optim.Adam(eps=0.0),
        lambda: em.optim.LazyAdam(eps=1e-46),
        lambda: em.optim.AdamW(eps=0.0),
        lambda: em.optim.SGD(lr=1e39),
        lambda: em.optim.SGD(lr=float("nan")),
        lambda: em.init.Constant(1e300),
        lambda: em.init.Uniform(1e39),
        lambda: em.init.Normal(1e39),
        lambda: em.init.Normal(1.0, mean=-1e39),
    ],
)
def test_a_number_that_is_0_or_infinite_in_float32_is_no_hyperparameter(make: Any) -> None:
    """eps = 0 makes a gradient of zero 0 / 0; an infinity would fill the rows."""
    with pytest.raises(em.InvalidArgument):
        make().validate()
