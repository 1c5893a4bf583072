"""What `em.Async` with several workers does not take, before anything is trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import embery as em
from embery.errors import InvalidArgument


@pytest.fixture
def store(run_cluster: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a store of the first of two workers."""
    monkeypatch.setenv("EMBERY_RANK", "0")
    monkeypatch.setenv("EMBERY_WORLD_SIZE", "2")
    with run_cluster(1) as url, em.connect(url) as opened:
        yield opened


def test_what_does_not_go_with_the_mode_is_refused(store: em.Store) -> None:
    tables, features = [em.Table("item", dim=2)], [em.Feature("item", table="item")]
    emb = em.EmbeddingBagCollection(tables=tables, features=features, store=store)
    model = torch.nn.ModuleDict({"emb": emb, "top": torch.nn.Linear(2, 1)})
    loss = torch.nn.functional.binary_cross_entropy_with_logits
    adam = torch.optim.Adam(model.parameters())

    def trainer(optimizer: Any = adam, **options: Any) -> em.Trainer:
        return em.Trainer(model, loss, optimizer, store=store, mode=em.Async(), **options)

    with pytest.raises(InvalidArgument, match="pushes them to the store; leave it out"):
        trainer(dense_wire="bfloat16")
    with pytest.raises(InvalidArgument, match="pushes them to the store; leave it out"):
        trainer(dense_wire=em.PowerSGD())
    with pytest.raises(InvalidArgument, match=r"got RMSprop\. Use em\.Hybrid"):
        trainer(torch.optim.RMSprop(model.parameters()))
    with pytest.raises(InvalidArgument, match=r"share out the pieces of a data set.*got list"):
        trainer().fit([])
    assert list(store.tables()) == ["item"]
