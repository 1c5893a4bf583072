"""Trainer: what fit computes, saves, resumes and refuses."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import embery as em
from embery import checkpoint as checkpoints

Batches = list[em.data.Batch]
MakeTrial = Callable[..., Any]


def assert_same(one: dict[str, Any], two: dict[str, Any]) -> None:
    for part, value in one.items():
        np.testing.assert_equal(two[part], value, err_msg=part)


def test_fit_learns_and_tells_its_history(make_trial: MakeTrial, make_batches: Any) -> None:
    trial = make_trial()
    trial.model.eval()
    result = trial.trainer.fit(make_batches(60), epochs=4, valid=make_batches(10, seed=9))
    assert result.stopped == "epochs"
    assert (result.steps, result.samples, result.staleness_seen) == (240, 240 * 16, 0)
    assert [record["epoch"] for record in result.history] == [0, 1, 2, 3]
    assert result.history[-1]["train/loss"] < result.history[0]["train/loss"]
    assert result.history[-1]["valid/auc"] > 0.7
    assert result.best_epoch is not None
    assert trial.model.training


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"admission": em.MinCount(2), "eviction": em.LRU(max_rows=10)},
    ],
    ids=["all", "min_count_lru"],
)
def test_look_ahead_does_not_change_a_bit(
    make_trial: MakeTrial, batches: Batches, options: dict[str, Any]
) -> None:
    results, snapshots = [], []
    for look_ahead in (False, True):
        trial = make_trial(table=em.Table("item", dim=4, **options))
        fit = trial.trainer.fit(batches, epochs=2, valid=batches[:4], look_ahead=look_ahead)
        results.append(fit)
        snapshots.append(trial.snapshot())
    assert results[0] == results[1]
    assert_same(*snapshots)


def test_evaluate_measures_without_learning(make_trial: MakeTrial, batches: Batches) -> None:
    trial = make_trial()
    trial.trainer.fit(batches[:10])
    before = trial.snapshot()
    found = trial.trainer.evaluate(batches)
    assert_same(before, trial.snapshot())
    trial.model.eval()
    with torch.no_grad():
        logits = torch.cat([trial.model(batch) for batch in batches]).double()
    labels = torch.cat([batch.label for batch in batches])
    p = torch.sigmoid(logits)
    assert found["auc"] == pytest.approx(roc_auc_score(labels, logits), abs=2e-3)
    assert found["logloss"] == pytest.approx(log_loss(labels, p), rel=1e-6)
    assert found["calibration"] == pytest.approx(float(p.mean() / labels.mean()), rel=1e-6)


def test_a_resumed_run_ends_with_the_bits_of_an_uninterrupted_one(
    make_trial: MakeTrial, batches: Batches, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"epochs": 3, "valid": batches[:3]}
    whole = make_trial()
    expected = whole.trainer.fit(batches, **options)

    first = make_trial()
    first.trainer.fit(batches, **options, checkpoint=tmp_path, max_steps=27)
    torch.manual_seed(99)
    second = make_trial()
    torch.manual_seed(98)
    found = second.trainer.fit(batches, **options, checkpoint=tmp_path, resume=True)
    assert found == expected
    assert_same(whole.snapshot(), second.snapshot())
    # A run that is over goes on to nothing.
    again = second.trainer.fit(batches, **options, checkpoint=tmp_path, resume=True)
    assert again == expected
    assert_same(whole.snapshot(), second.snapshot())


def test_ctrl_c_finishes_the_step_and_leaves_a_checkpoint_to_resume(
    make_trial: MakeTrial, batches: Batches, tmp_path: Path
) -> None:
    whole = make_trial()
    expected = whole.trainer.fit(batches)
    calls = 0

    def loss(output: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 8:
            os.kill(os.getpid(), signal.SIGINT)
        return nn.functional.binary_cross_entropy_with_logits(output, label)

    trial = make_trial(loss=loss)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        trial.trainer.fit(batches, checkpoint=tmp_path)
    assert signal.getsignal(signal.SIGINT) is handler
    assert trial.store.stats()["tables"]["item"]["step"] == 8
    found = trial.trainer.fit(batches, checkpoint=tmp_path, resume=True)
    assert calls == len(batches)
    assert found == expected
    assert_same(whole.snapshot(), trial.snapshot())


def test_a_second_ctrl_c_breaks_into_the_step_and_saves_nothing(
    make_trial: MakeTrial, batches: Batches, tmp_path: Path
) -> None:
    def loss(output: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("not reached")

    with pytest.raises(KeyboardInterrupt):
        make_trial(loss=loss).trainer.fit(batches, checkpoint=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [em.Hybrid(staleness=3), em.Async(staleness=7)])
def test_bounded_modes_learn_and_stay_within_their_bound(
    make_trial: MakeTrial, make_batches: Any, mode: Any
) -> None:
    trial = make_trial(mode)
    train = make_batches(60)
    result = trial.trainer.fit(train, epochs=3, valid=make_batches(10, seed=9), depth=16)
    assert 0 < result.staleness_seen <= mode.staleness
    assert result.history[-1]["valid/auc"] > 0.7
    # Every push arrived.
    assert trial.store.stats()["tables"]["item"]["step"] == 180


def test_a_bounded_run_saves_what_was_pushed_and_resumes(
    make_trial: MakeTrial, batches: Batches, tmp_path: Path
) -> None:
    trial = make_trial(em.Hybrid(staleness=4))
    trial.trainer.fit(batches, checkpoint=tmp_path, max_steps=7)
    saved = checkpoints.open(tmp_path)
    other = make_trial(em.Hybrid(staleness=4))
    other.trainer.restore(saved.path)
    assert other.store.stats()["tables"]["item"]["step"] == 7
    assert other.trainer.fit(batches, checkpoint=tmp_path, resume=True).steps == len(batches)


def test_training_stops_when_epochs_get_no_better_and_goes_back_to_the_best(
    make_trial: MakeTrial, batches: Batches, make_batches: Any
) -> None:
    trial = make_trial()
    for group in trial.trainer.dense_optimizer.param_groups:
        group["lr"] = 0.3  # Overfits soon.
    valid = make_batches(6, seed=5)
    result = trial.trainer.fit(
        batches, epochs=50, valid=valid, monitor="logloss", patience=2, restore_best=True
    )
    losses = [record["valid/logloss"] for record in result.history]
    assert result.stopped == "patience"
    assert len(losses) < 50
    assert result.best_epoch == int(np.argmin(losses)) == len(losses) - 3
    assert trial.trainer.evaluate(valid)["logloss"] == min(losses)


def test_old_checkpoints_go_when_so_many_are_kept(
    make_trial: MakeTrial, batches: Batches, tmp_path: Path
) -> None:
    trial = make_trial()
    trial.trainer.fit(batches, checkpoint=tmp_path, checkpoint_every=5, keep=2)
    assert len(list(tmp_path.glob("checkpoint-*"))) == 2


def test_a_loss_that_is_not_finite_stops_before_the_step(
    make_trial: MakeTrial, batches: Batches
) -> None:
    def loss(output: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return (output * math.inf).mean()

    trial = make_trial(loss=loss)
    dense = {name: tensor.clone() for name, tensor in trial.model.named_parameters()}
    with pytest.raises(em.EmberyError, match=r"the loss is .*this step was not taken"):
        trial.trainer.fit(batches)
    for name, tensor in trial.model.named_parameters():
        assert torch.equal(tensor, dense[name])
    assert trial.store.stats()["tables"]["item"]["step"] == 0


def test_curves_reach_tensorboard(make_trial: MakeTrial, batches: Batches, tmp_path: Path) -> None:
    trial = make_trial()
    result = trial.trainer.fit(batches, valid=batches[:4], log_dir=tmp_path, log_every=5)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert set(events.Tags()["scalars"]) >= {
        "train/loss", "train/samples_per_s", "valid/auc", "train/auc", "rows/item",
    }  # fmt: skip
    assert [point.step for point in events.Scalars("train/loss")] == [5, 10, 15, 20, 20]
    assert events.Scalars("valid/auc")[0].value == pytest.approx(result.history[0]["valid/auc"])
    assert events.Scalars("rows/item")[0].value == trial.store.stats()["tables"]["item"]["rows"]


def test_a_bar_is_shown_when_asked_for(
    make_trial: MakeTrial, batches: Batches, capsys: pytest.CaptureFixture[str]
) -> None:
    make_trial().trainer.fit(batches, progress=True, log_every=5)
    shown = capsys.readouterr().err
    assert "epoch 0" in shown
    assert "samples/s" in shown
    make_trial().trainer.fit(batches)
    assert capsys.readouterr().err == ""


def test_a_checkpoint_of_another_model_is_refused_and_changes_nothing(
    make_trial: MakeTrial, batches: Batches, tmp_path: Path
) -> None:
    trial = make_trial()
    trial.trainer.fit(batches[:3], checkpoint=tmp_path)
    other = make_trial()
    other.trainer.fit(batches[:2])
    other.model.top = nn.Linear(8, 2)
    before = other.snapshot()
    with pytest.raises(
        em.SchemaMismatch, match=r"'top.weight' has shape \[1, 8\] there .*\[2, 8\]"
    ):
        other.trainer.restore(tmp_path)
    other.model.top = nn.Linear(8, 1)
    other.trainer.dense_optimizer = torch.optim.Adam(other.model.top.parameters())
    with pytest.raises(em.SchemaMismatch, match="another dense optimizer"):
        other.trainer.restore(tmp_path)
    np.testing.assert_equal(other.snapshot()["rows"], before["rows"])


def test_a_checkpoint_that_is_not_a_trainers_is_refused(
    make_trial: MakeTrial, batches: Batches, tmp_path: Path
) -> None:
    trial = make_trial()
    trial.store.checkpoint(tmp_path / "bare")
    with pytest.raises(em.CheckpointCorrupt, match="no state of a trainer"):
        trial.trainer.restore(tmp_path / "bare")
    trial.trainer.save(tmp_path / "outside")
    with pytest.raises(em.CheckpointCorrupt, match="saved outside of fit"):
        trial.trainer.fit(batches, checkpoint=tmp_path / "outside", resume=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "fit: epochs must lie in"),
        ({"depth": 0}, "fit: depth must lie in"),
        ({"max_steps": -1}, "fit: max_steps must lie in"),
        ({"log_every": 0}, "log_every must lie in"),
        ({"resume": True}, "fit: resume needs checkpoint"),
        ({"checkpoint_every": 5}, "fit: checkpoint_every needs checkpoint"),
        ({"patience": 1}, "patience and restore_best need valid"),
        ({"monitor": "loss"}, "fit: monitor must be one of"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_changes(
    make_trial: MakeTrial, batches: Batches, options: dict[str, Any], message: str
) -> None:
    trial = make_trial()
    with pytest.raises(em.InvalidArgument, match=message):
        trial.trainer.fit(batches, **options)
    assert trial.store.stats()["tables"]["item"]["rows"] == 0


def test_a_trainer_that_cannot_work_is_refused(make_trial: MakeTrial, batches: Batches) -> None:
    trial = make_trial()
    loss = nn.functional.mse_loss
    with pytest.raises(em.InvalidArgument, match="no EmbeddingBagCollection"):
        em.Trainer(nn.Linear(1, 1), loss, store=trial.store)
    with (
        em.connect("embedded:") as other,
        pytest.raises(em.InvalidArgument, match="another store"),
    ):
        em.Trainer(trial.model, loss, store=other)
    with pytest.raises(em.InvalidArgument, match="mode must be"):
        em.Trainer(trial.model, loss, store=trial.store, mode="sync")
    with pytest.raises(em.InvalidArgument, match="outputs must be"):
        em.Trainer(trial.model, loss, store=trial.store, outputs="scores")
    with pytest.raises(em.InvalidArgument, match="dense_wire must be one of"):
        em.Trainer(trial.model, loss, store=trial.store, dense_wire="int8")
    with pytest.raises(em.InvalidArgument, match=r"look_ahead=False goes with em\.Sync"):
        make_trial(em.Hybrid()).trainer.fit(batches, look_ahead=False)
    with pytest.raises(em.InvalidArgument, match=r"Hybrid\.staleness must lie in"):
        em.Hybrid(staleness=0)
