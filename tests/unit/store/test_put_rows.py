"""Rows that are set to given values."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import embery as em
from embery.errors import InvalidArgument, TableNotFound

KEYS = np.array([3, 2**63 + 1, 7], np.uint64)
ROWS = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.fixture
def store() -> Iterator[em.Store]:
    with em.connect("embedded:", threads=1) as opened:
        adagrad = em.optim.Adagrad(lr=1.0, initial_accumulator=0.5)
        opened.create_table(em.Table("a", dim=4, optimizer=adagrad))
        yield opened


def test_rows_are_as_put_and_learn_like_new_ones(store: em.Store) -> None:
    store.pull("a", [3])
    store.push("a", [3], np.ones((1, 4), np.float32))
    store.put_rows("a", KEYS, ROWS)
    assert (store.pull("a", KEYS, train=False) == ROWS).all()
    for key in KEYS.tolist():
        row = store.inspect("a", key)
        assert row is not None
        assert row["updates"] == 0
    store.push("a", KEYS, np.ones((3, 4), np.float32))
    step = np.float32(1 / (np.sqrt(1.5) + 1e-10))
    assert store.pull("a", KEYS, train=False) == pytest.approx(ROWS - step)


def test_what_cannot_be_put_is_refused(store: em.Store) -> None:
    store.create_table(em.Table("half", dim=4, dtype="float16"))
    store.create_table(em.Table("ftrl", dim=4, optimizer=em.optim.FTRL()))
    for table in ("half", "ftrl"):
        with pytest.raises(InvalidArgument, match="float32, of any optimizer but FTRL"):
            store.put_rows(table, KEYS, ROWS)
    with pytest.raises(InvalidArgument, match="distinct"):
        store.put_rows("a", [1, 1], ROWS[:2])
    with pytest.raises(InvalidArgument, match="rows"):
        store.put_rows("a", KEYS, ROWS[:, :3])
    with pytest.raises(TableNotFound):
        store.put_rows("none", KEYS, ROWS)
    assert store.stats()["tables"]["a"]["rows"] == 0
