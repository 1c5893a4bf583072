"""PowerSGD: what is sent now, what is held back, and that nothing is lost."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
import torch
from torch import Tensor

import embery as em
from embery.dense_state import from_tree
from embery.worker.low_rank import LowRankSum

# The first and the last are worth their columns.
SHAPES = [(64, 64), (64,), (3, 3), (16, 4, 8)]
MATRIX, REST = slice(0, 4096), slice(4096, 4096 + 64 + 9)


def alone(*_tensors: Tensor) -> None:
    """Add up over one worker: the sums are what it gave."""


def gradients(seed: int, *, rank: int = 64) -> Tensor:
    """Return gradients of SHAPES side by side, that of the first matrix of the given rank."""
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.randn(shape, generator=generator) for shape in SHAPES]
    left, right = (torch.randn(64, rank, generator=generator) for _ in range(2))
    parts[0] = left @ right.T
    return torch.cat([part.reshape(-1) for part in parts])


def sent_by(low_rank: LowRankSum, flat: Tensor) -> Tensor:
    total = flat.clone()
    low_rank.add_up(alone, total)
    return total


def held_back(low_rank: LowRankSum) -> Tensor:
    first, _ = low_rank.state(alone, leads=True)["residuals"]
    return from_tree(first)


@pytest.mark.parametrize("idle_steps", [0, 3])
def test_a_matrix_of_few_columns_arrives_whole_even_if_it_was_idle(idle_steps: int) -> None:
    low_rank, flat = LowRankSum(em.PowerSGD(rank=2), SHAPES), gradients(0, rank=2)
    for _ in range(idle_steps):
        assert not sent_by(low_rank, torch.zeros_like(flat)).any()
    for _ in range(3):
        torch.testing.assert_close(sent_by(low_rank, flat)[MATRIX], flat[MATRIX], rtol=0, atol=1e-3)


def test_what_is_no_large_matrix_travels_as_it_is() -> None:
    flat = gradients(0)
    sent = sent_by(LowRankSum(em.PowerSGD(rank=4), SHAPES), flat)
    assert torch.equal(sent[REST], flat[REST])
    assert not torch.allclose(sent[MATRIX], flat[MATRIX], atol=0.1)
    # At this rank no matrix is worth its columns.
    assert torch.equal(sent_by(LowRankSum(em.PowerSGD(rank=32), SHAPES), flat), flat)


def test_what_was_sent_and_what_is_held_back_are_all_gradients() -> None:
    low_rank = LowRankSum(em.PowerSGD(rank=1), SHAPES)
    steps = [gradients(step) for step in range(20)]
    sent = sum(sent_by(low_rank, flat)[MATRIX].double() for flat in steps)
    given = sum(flat[MATRIX].double() for flat in steps)
    torch.testing.assert_close(
        sent + held_back(low_rank).reshape(-1).double(), given, rtol=0, atol=1e-2
    )


def test_a_gradient_that_comes_again_and_again_arrives_in_the_mean() -> None:
    low_rank, flat = LowRankSum(em.PowerSGD(rank=4), SHAPES), gradients(0)
    errors = []
    for steps in (1, 100):
        low_rank = LowRankSum(em.PowerSGD(rank=4), SHAPES)
        mean = sum(sent_by(low_rank, flat)[MATRIX] for _ in range(steps)) / steps
        errors.append(float((mean - flat[MATRIX]).norm() / flat[MATRIX].norm()))
    assert errors[0] > 0.5
    assert errors[1] < 0.2


PROGRAM = """
    import hashlib, json, torch
    from torch import distributed, nn
    import embery as em
    from embery.worker.group import WorkerGroup
    from embery.worker.low_rank import LowRankSum

    sent = [0]
    all_reduce = distributed.all_reduce

    def counted(tensor, group=None, **options):
        sent[0] += tensor.nbytes
        return all_reduce(tensor, group=group, **options)

    distributed.all_reduce = counted
    group = WorkerGroup.of_run()
    layer = nn.Linear(200, 100)
    optimizer = torch.optim.SGD(layer.parameters())
    low_rank = LowRankSum(em.PowerSGD(rank=2), [p.shape for p in layer.parameters()])
    generator = torch.Generator().manual_seed(group.rank)
    totals = [torch.zeros_like(p) for p in layer.parameters()]
    given = [torch.zeros_like(p) for p in layer.parameters()]
    digest = hashlib.sha256()
    for step in range(5):
        for p, mine in zip(layer.parameters(), given):
            p.grad = torch.randn(p.shape, generator=generator)
            mine += p.grad
        (ones,) = group.reduce(optimizer, [1.0], wire=low_rank)
        assert ones == group.world_size
        for p, total in zip(layer.parameters(), totals):
            total += p.grad
            digest.update(p.grad.numpy().tobytes())
    bytes_a_step = sent[0] / 5
    group.add_up(*given)
    (residual,) = low_rank.state(group.add_up, leads=group.leads)["residuals"]
    residual = torch.frombuffer(bytearray(residual["bytes"]), dtype=torch.float32).view(100, 200)
    held = residual.clone()
    group.add_up(held)
    torch.testing.assert_close(totals[0] + held, given[0], rtol=0, atol=1e-3)
    torch.testing.assert_close(totals[1], given[1], rtol=0, atol=1e-4)
    print(json.dumps([digest.hexdigest(), bytes_a_step, bool(residual.any())]))
"""


@pytest.mark.parametrize("hosts", ["aaa", "aab"])
def test_workers_get_the_same_bits_and_lose_nothing(run_workers: Any, hosts: str) -> None:
    found = run_workers(PROGRAM, world=3, hosts=hosts)
    for done in found:
        assert done.returncode == 0, done.stderr
    results = [json.loads(done.stdout) for done in found]
    assert len({digest for digest, _, _ in results}) == 1
    # Two columns for rows and for columns, the bias, and a sum and a presence for each parameter.
    bytes_expected = 2 * (100 + 200) * 4 + 100 * 4 + 3 * 8
    leaders = [True, True, True] if hosts == "aaa" else [True, False, True]
    assert [sent for _, sent, _ in results] == [bytes_expected * leads for leads in leaders]
    assert [has_residual for _, _, has_residual in results] == [True, False, False]


def test_a_restored_sum_goes_on_to_the_same_bits() -> None:
    first = LowRankSum(em.PowerSGD(rank=2), SHAPES)
    for step in range(3):
        sent_by(first, gradients(step))
    second = LowRankSum(em.PowerSGD(rank=2, seed=9), SHAPES)
    second.load(first.state(alone, leads=True), leads=True)
    for step in range(3, 6):
        assert torch.equal(sent_by(first, gradients(step)), sent_by(second, gradients(step)))


def test_another_rank_begins_anew_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    saved = LowRankSum(em.PowerSGD(rank=2), SHAPES).state(alone, leads=True)
    low_rank, untouched = (LowRankSum(em.PowerSGD(rank=3), SHAPES) for _ in range(2))
    with caplog.at_level(logging.WARNING, logger="embery"):
        low_rank.load(saved, leads=True)
    assert "begin anew" in caplog.text
    assert torch.equal(sent_by(low_rank, gradients(0)), sent_by(untouched, gradients(0)))


@pytest.mark.parametrize("options", [{"rank": 0}, {"rank": 1025}, {"rank": 2.0}, {"seed": -1}])
def test_a_rank_or_seed_out_of_range_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(em.InvalidArgument, match="PowerSGD"):
        em.PowerSGD(**options)
