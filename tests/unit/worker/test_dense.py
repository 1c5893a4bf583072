"""Dense parameters in a store: torch's steps, taken by whoever has the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import embery as em
from embery.errors import InvalidArgument
from embery.worker.dense import DIM, DenseRows, rule_of
from embery.worker.gradients import Push


@pytest.fixture
def store() -> Iterator[em.Store]:
    with em.connect("embedded:", threads=1) as opened:
        yield opened


def net() -> nn.Module:
    """Parameters of less than a row, of exactly one, and of many."""
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 50), nn.Linear(50, 1))


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.01),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1, initial_accumulator_value=0.1),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.8, 0.99), weight_decay=0.01),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_rows_take_the_steps_of_the_torch_optimizer(store: em.Store, name: str) -> None:
    expected, shared = net(), net()
    optimizer = OPTIMIZERS[name](expected.parameters())
    rows = DenseRows(OPTIMIZERS[name](shared.parameters()), store)
    rows.create()
    rows.publish()
    for step in range(8):
        inputs = torch.from_numpy(np.random.default_rng(step).normal(size=(9, 16))).float()
        for model in (expected, shared):
            model.zero_grad()
            # In every other step the last layer has no gradient, which is not one of zero.
            model[: 3 - step % 2](inputs).square().mean().backward()
        optimizer.step()
        rows.push_of(Push(store, [], [], [])).apply()
        rows.pull()
        rows.adopt()
        for mine, theirs in zip(shared.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-7)


def test_parameters_that_are_in_the_store_are_taken_from_there(store: em.Store) -> None:
    first, second = net(), net()
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.add_(1)
    for model in (first, second):
        rows = DenseRows(torch.optim.SGD(model.parameters(), lr=0.1), store)
        rows.create()
        rows.publish()
    rows.pull()
    rows.adopt()
    for mine, theirs in zip(second.parameters(), first.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_each_parameter_group_has_a_rule_and_a_table(store: em.Store) -> None:
    model = net()
    groups = [{"params": model[0].parameters()}, {"params": model[1].parameters(), "lr": 0.5}]
    rows = DenseRows(torch.optim.SGD(groups, lr=0.1), store)
    rows.create()
    rules = [table.optimizer for table in store.tables().values()]
    assert rules == [em.optim.SGD(lr=0.1), em.optim.SGD(lr=0.5)]
    assert {table.dim for table in store.tables().values()} == {DIM}


def test_a_learning_rate_that_changes_is_refused(store: em.Store) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    rows = DenseRows(optimizer, store)
    rows.create()
    optimizer.param_groups[0]["lr"] = 0.05
    with pytest.raises(InvalidArgument, match="options have changed"):
        rows.push_of(Push(store, [], [], []))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (torch.optim.RMSprop, "got RMSprop"),
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True), "with nesterov"),
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.1), "with dampening"),
        (lambda p: torch.optim.Adam(p, amsgrad=True), "with amsgrad"),
        (lambda p: torch.optim.Adagrad(p, lr_decay=0.1), "with lr_decay"),
    ],
)
def test_a_rule_that_servers_do_not_have_is_named(
    make: Callable[[Any], torch.optim.Optimizer], named: str
) -> None:
    optimizer = make(net().parameters())
    with pytest.raises(InvalidArgument, match=rf"SGD.*Adagrad, Adam or AdamW.*{named}"):
        rule_of(optimizer, optimizer.param_groups[0])


def test_parameters_of_another_type_are_refused(store: em.Store) -> None:
    optimizer = torch.optim.SGD(net().double().parameters(), lr=0.1)
    with pytest.raises(InvalidArgument, match=r"float64; use em\.Hybrid"):
        DenseRows(optimizer, store)
