"""Histories in the synthetic click log: lists of living items that tell of clicks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from embery.data import ClickLog, SparseList, optimum
from embery.data.synthetic import expected_auc

PLAIN: dict[str, Any] = {
    "seed": 3,
    "cardinalities": (300, 200, 100, 50, 20),
    "missing": (0.0, 0.3),
}
HISTORY = 8
REMEMBERING = ClickLog(**PLAIN, history=HISTORY)


def test_a_history_is_a_list_feature_of_items_of_any_length_up_to_the_greatest() -> None:
    assert REMEMBERING.schema.sparse[-1] == SparseList("history")
    records = REMEMBERING.records(0, 20_000)
    history = records.column("history")
    assert history.type == pa.list_(pa.int64())
    lengths = np.diff(history.offsets.to_numpy())
    share = np.bincount(lengths) / len(lengths)
    assert share.tolist() == pytest.approx([1 / (HISTORY + 1)] * (HISTORY + 1), abs=0.01)
    items = set(records.column("item").to_pylist())
    known = [key in items for key in history.flatten().to_pylist()]
    assert np.mean(known) > 0.99


def test_a_user_is_drawn_to_the_same_items_again() -> None:
    rows = REMEMBERING.draws(0, 50_000)
    assert rows.history is not None
    users = np.repeat(rows.ranks[0], rows.history.lengths())
    for user in (0, 1, 2):
        assert len(np.unique(rows.history.values[users == user])) <= 32
    seen = {u: set(rows.history.values[users == u].tolist()) for u in (0, 1)}
    assert seen[0] != seen[1]
    # The order of a row's items is drawn for the row: rows of one user differ.
    lists = {
        tuple(bag.values.tolist())
        for i in np.flatnonzero(rows.ranks[0] == 0)[:50]
        if len((bag := rows.history.slice(int(i), int(i) + 1)).values) > 2
    }
    assert len(lists) > 20


def test_a_history_tells_of_clicks_and_its_items_can_be_known() -> None:
    rows = REMEMBERING.rows(0, 50_000)
    true = expected_auc(rows.probability, rows.probability)
    blind = expected_auc(REMEMBERING.logit(replace(rows, history=None)), rows.probability)
    assert true - blind > 0.02
    linear = ClickLog(**PLAIN, history=HISTORY, interaction=0)
    some = linear.rows(0, 100)
    np.testing.assert_array_equal(linear.logit(replace(some, history=None)), linear.logit(some))
    few = optimum(REMEMBERING, train=range(300), test=range(10**6, 10**6 + 10_000))
    many = optimum(REMEMBERING, train=range(100_000), test=range(10**6, 10**6 + 10_000))
    assert few.learnable_auc < many.learnable_auc - 0.05
    assert many.auc - many.learnable_auc < 0.002


def test_histories_show_the_items_that_live() -> None:
    life = 2000
    log = ClickLog(**PLAIN, id_life_rows=life, history=HISTORY)
    drawn = log.draws(50_000, 50_000 + life)
    assert drawn.history is not None
    generation = drawn.history.values // 200
    assert generation.min() >= 50_000 // life
    assert generation.max() <= (50_000 + 2 * life) // life
