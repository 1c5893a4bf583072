"""A reader learns of every push that was not complete when it began to read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import embery as em
from embery.worker.lookahead import PeekReader
from embery.worker.recency import Moment, PushHistory

KEYS = [np.array([3, 5], np.uint64)]


@pytest.fixture
def emb() -> Any:
    with em.connect("embedded:", threads=1) as store:
        yield em.EmbeddingBagCollection(
            tables=[em.Table("t", dim=2)], features=[em.Feature("a", table="t")], store=store
        )


def stale(history: PushHistory, emb: Any, since: Moment) -> list[int]:
    kjt = em.KeyedJaggedTensor(["a"], torch.tensor([4, 5]), lengths=torch.tensor([2]))
    plan = emb.plan(kjt)
    found = history.find_stale(plan, ["t"], np.zeros(2, np.uint8), since=since, distrusted=[False])
    return [int(key) for key in found.keys[0]]


def test_a_complete_push_is_news_only_to_those_who_read_before_it(emb: Any) -> None:
    history = PushHistory()
    before = history.now()
    with history.pushing(["t"], KEYS):
        pass
    assert stale(history, emb, before) == [5]
    assert stale(history, emb, history.now()) == []


def test_a_push_under_way_is_news_to_those_who_begin_to_read_now(emb: Any) -> None:
    history = PushHistory()
    with history.pushing(["other"], KEYS):
        # Later pushes that are complete do not hide the first one, which is not.
        with history.pushing(["t"], KEYS):
            during = history.now()
        after_inner = history.now()
    assert stale(history, emb, during) == [5]
    assert stale(history, emb, after_inner) == [5]
    assert stale(history, emb, history.now()) == []


def test_a_push_that_fails_counts_as_one(emb: Any) -> None:
    history = PushHistory()
    before = history.now()
    with pytest.raises(ZeroDivisionError), history.pushing(["t"], KEYS):
        raise ZeroDivisionError
    assert stale(history, emb, before) == [5]
    assert history.now().pushes == 1


def test_a_restore_makes_all_rows_news(emb: Any) -> None:
    history = PushHistory()
    before = history.now()
    history.rows_replaced()
    assert stale(history, emb, before) == [4, 5]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_push_in_the_middle_of_a_peek_is_not_missed(
    emb: Any, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    store, history = emb.store, PushHistory()
    store.watch(history)
    key = np.array([7], np.uint64)
    store.pull("t", key)
    peek = store.peek_batch

    def interleaved(*arguments: Any) -> None:
        if when == "before":
            store.push("t", key, np.ones((1, 2), np.float32))
        peek(*arguments)
        if when == "after":
            store.push("t", key, np.ones((1, 2), np.float32))

    monkeypatch.setattr(store, "peek_batch", interleaved)
    kjt = em.KeyedJaggedTensor(["a"], torch.tensor([7]), lengths=torch.tensor([1]))
    ahead = PeekReader({id(store): history}).read(emb, kjt)
    np.testing.assert_array_equal(ahead.take("train"), store.pull("t", key).ravel())
    store.unwatch(history)
