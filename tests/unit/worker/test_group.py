"""Several workers: shares of a batch, and sums that are those of the whole batch."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

import embery as em
from embery.launch.contract import PEER_LOST
from embery.place import Place
from embery.worker.group import WorkerGroup

WORLD = 3


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 7, 64])
def test_the_shares_of_a_batch_are_its_rows_in_order(rows: int, weighted: bool) -> None:
    lengths = torch.arange(2 * rows) % 4
    values = torch.arange(int(lengths.sum()))
    sparse = em.KeyedJaggedTensor(
        ["a", "b"], values, lengths=lengths, weights=values.float() if weighted else None
    )
    batch = em.data.Batch(
        label=torch.arange(rows).float(), dense=torch.rand(rows, 3), sparse=sparse, index=5
    )
    shares = [next(WorkerGroup(Place(rank, WORLD)).shares([batch])) for rank in range(WORLD)]
    assert torch.equal(torch.cat([share.label for share in shares]), batch.label)
    assert torch.equal(torch.cat([share.dense for share in shares]), batch.dense)
    assert {share.index for share in shares} == {5}
    assert sum(share.weight for share in shares) == pytest.approx(1.0)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    for key in ("a", "b"):
        parts = [share.sparse[key] for share in shares]
        assert torch.equal(torch.cat([p.values() for p in parts]), sparse[key].values())
        assert torch.equal(torch.cat([p.lengths() for p in parts]), sparse[key].lengths())
        if weighted:
            assert torch.equal(torch.cat([p.weights() for p in parts]), sparse[key].weights())


def test_only_batches_that_can_be_shared_out_are() -> None:
    with pytest.raises(em.InvalidArgument, match=r"share out batches of type em\.data\.Batch"):
        next(WorkerGroup(Place(0, 2)).shares([(1, 2)]))  # type: ignore[list-item]


@pytest.mark.parametrize(
    "environment",
    [
        {"EMBERY_RANK": "2", "EMBERY_WORLD_SIZE": "2"},
        {"EMBERY_RANK": "0"},
        {"EMBERY_WORLD_SIZE": "2"},
        {"EMBERY_RANK": "-1", "EMBERY_WORLD_SIZE": "2"},
        {"EMBERY_RANK": "0", "EMBERY_WORLD_SIZE": "two"},
    ],
)
def test_an_environment_that_makes_no_sense_is_refused(environment: dict[str, str]) -> None:
    with pytest.raises(em.InvalidArgument, match="embery run sets both"):
        WorkerGroup.of_run(environment)
    assert WorkerGroup.of_run({}).alone


def test_gradients_and_loss_of_the_shares_are_those_of_the_batch(run_workers: Any) -> None:
    program = """
        import json, torch
        from torch import nn
        import embery as em
        from embery.worker.group import WorkerGroup
        from embery.worker.together import learn_share

        group = WorkerGroup.of_run()
        torch.manual_seed(0)
        x, y = torch.rand(7, 4), torch.rand(7)
        # Each begins with other parameters, and gets those of rank 0.
        torch.manual_seed(group.rank)
        model = nn.ModuleDict({"used": nn.Linear(4, 1), "idle": nn.Linear(2, 2)})
        group.begin_alike(model)
        start = {name: value.tolist() for name, value in model.state_dict().items()}
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

        def forward(batch):
            return model["used"](batch.dense)[:, 0]

        losses = []
        for rows in (7, 2):  # The second leaves a worker without any.
            batch = em.data.Batch(label=y[:rows], dense=x[:rows], sparse=None, index=0)
            share = group.share_of(batch)
            loss, output, asked, _ = learn_share(
                group, forward, nn.functional.mse_loss, optimizer, share,
                interrupted=group.rank == 1 and rows == 2,
            )
            optimizer.step()
            losses.append((loss, asked, output is None))
        end = {name: value.tolist() for name, value in model.state_dict().items()}
        idle = [p.grad is None for p in model["idle"].parameters()]
        print(json.dumps([start, losses, end, idle]))
    """
    found = run_workers(program, world=WORLD)
    assert [done.returncode for done in found] == [0] * WORLD, found[0].stderr
    results = [json.loads(done.stdout) for done in found]
    start, losses, end, idle = results[0]
    # With rows 0, 1 of 2 the first of three workers has none.
    assert [[none for _, _, none in r[1]] for r in results] == [
        [False, True], [False, False], [False, False],
    ]  # fmt: skip
    assert all(
        (r[0], r[2], [loss for loss, *_ in r[1]]) == (start, end, [loss for loss, *_ in losses])
        for r in results
    )
    assert [asked for _, asked, _ in losses] == [False, True]
    assert idle == [True, True]

    torch.manual_seed(0)
    x, y = torch.rand(7, 4), torch.rand(7)
    whole = torch.nn.Linear(4, 1)
    whole.load_state_dict(
        {n.removeprefix("used."): torch.tensor(v) for n, v in start.items() if "used" in n}
    )
    optimizer = torch.optim.SGD(whole.parameters(), lr=0.1)
    for rows, (found_loss, *_) in zip((7, 2), losses, strict=True):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(whole(x[:rows])[:, 0], y[:rows])
        loss.backward()
        optimizer.step()
        assert found_loss == pytest.approx(loss.item(), rel=1e-6)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(torch.tensor(end[f"used.{name}"]), value)


@pytest.mark.parametrize("wire", ["bfloat16", "float16"])
def test_gradients_may_travel_in_half_the_bytes(run_workers: Any, wire: str) -> None:
    program = f"""
        import torch
        from torch import nn
        from embery.worker.group import WorkerGroup

        group = WorkerGroup.of_run()
        layer = nn.Linear(100, 10)
        optimizer = torch.optim.SGD(layer.parameters())
        for p in layer.parameters():
            p.grad = torch.linspace(-1, 1, p.numel()).view_as(p) / 3 + group.rank
        (sum_of_ranks,) = group.reduce(optimizer, [0.1 + group.rank], wire="{wire}")
        assert sum_of_ranks == 0.1 + (0.1 + 1), sum_of_ranks
        for p in layer.parameters():
            exact = torch.linspace(-1, 1, p.numel()).view_as(p) / 3 * 2 + 1
            assert p.grad.dtype == torch.float32
            error = (p.grad - exact).abs().max().item()
            assert 0 < error < 2 ** (-7 if "{wire}" == "bfloat16" else -10), error
    """
    for done in run_workers(program, world=2):
        assert done.returncode == 0, done.stderr


def test_metrics_buffers_and_texts_are_those_of_all_workers(run_workers: Any) -> None:
    program = """
        import json, torch
        from torch import nn
        from embery.worker.group import WorkerGroup
        from embery.worker.metrics import ClickMetrics

        group = WorkerGroup.of_run()
        generator = torch.Generator().manual_seed(3)
        scores = torch.randn(99, generator=generator)
        labels = (torch.rand(99, generator=generator) < 0.4).float()
        metrics, whole = ClickMetrics(), ClickMetrics()
        mine = slice(33 * group.rank, 33 * group.rank + 33)
        metrics.update(scores[mine], labels[mine])
        whole.update(scores, labels)
        norm = nn.BatchNorm1d(1)
        norm.running_mean += group.rank
        group.average_buffers(norm)
        texts = [group.broadcast_text(f"from {group.rank} é"), group.broadcast_text("")]
        both = [metrics.of_all(group).compute(), whole.compute()]
        print(json.dumps([*both, norm.running_mean.item(), texts]))
    """
    for done in run_workers(program, world=WORLD):
        assert done.returncode == 0, done.stderr
        found, expected, mean, texts = json.loads(done.stdout)
        assert found == pytest.approx(expected, rel=1e-12)
        assert mean == 1.0
        assert texts == ["from 0 é", ""]


def test_a_worker_that_has_gone_is_said(run_workers: Any) -> None:
    program = """
        import sys, torch
        from embery.worker.group import WorkerGroup
        group = WorkerGroup.of_run()
        group.barrier()
        if group.rank == 1:
            sys.exit(7)
        group.barrier()
    """
    first, second = run_workers(program, world=2)
    assert second.returncode == 7
    assert first.returncode == 1
    assert f"embery.worker.group.PeerLost: {PEER_LOST}" in first.stderr


@pytest.mark.parametrize("mode", [em.Async(), em.Hybrid(), em.Sync()])
def test_a_trainer_that_several_workers_cannot_share_is_refused(
    make_trial: Any, monkeypatch: pytest.MonkeyPatch, mode: Any
) -> None:
    monkeypatch.setenv("EMBERY_RANK", "0")
    monkeypatch.setenv("EMBERY_WORLD_SIZE", "2")
    with pytest.raises(em.InvalidArgument, match=r"call em\.connect\(\)"):
        make_trial(mode)


def test_an_embedded_store_joins_no_group() -> None:
    with em.connect("embedded:") as store:
        store.join_group(0, 1)
        with pytest.raises(em.InvalidArgument, match="only the workers of a cluster"):
            store.join_group(0, 2)
