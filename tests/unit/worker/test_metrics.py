"""Metrics agree with scikit-learn, state their error, and go on from a saved state."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score

import embery as em
from embery.worker.metrics import AUC, Calibration, ClickMetrics, ExactAUC, LogLoss


def stream(seed: int, n: int = 5000) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    logits = random.normal(-2, 2, n).astype(np.float32)
    return logits, (random.random(n) < 1 / (1 + np.exp(-logits))).astype(np.float32)


def feed(metric: Any, scores: Any, labels: Any, batch: int = 700) -> Any:
    for begin in range(0, len(scores), batch):
        metric.update(scores[begin : begin + batch], labels[begin : begin + batch])
    return metric


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e30, 1e-30])
def test_auc_is_sklearns_within_its_stated_bound(scale: float) -> None:
    logits, labels = stream(1)
    expected = roc_auc_score(labels, logits)
    exact = feed(ExactAUC(), logits * np.float32(scale), labels)
    binned = feed(AUC(), logits * np.float32(scale), labels)
    assert exact.compute() == pytest.approx(expected, abs=1e-12)
    assert abs(binned.compute() - expected) <= binned.error_bound()
    assert binned.error_bound() < 2e-4


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(width=32, allow_nan=False), st.booleans()), min_size=2, max_size=40
    ).filter(lambda pairs: len({label for _, label in pairs}) == 2)
)
def test_auc_of_any_scores_is_within_its_bound(pairs: list[tuple[float, bool]]) -> None:
    scores = np.array([score for score, _ in pairs], np.float32)
    labels = np.array([label for _, label in pairs], np.float32)
    # The definition: the share of pairs in which the positive scores higher, ties one half.
    higher = scores[labels == 1][:, None]
    lower = scores[labels == 0][None, :]
    expected = float(((higher > lower) + 0.5 * (higher == lower)).mean())
    assert feed(ExactAUC(), scores, labels).compute() == pytest.approx(expected, abs=1e-12)
    binned = feed(AUC(), scores, labels)
    assert abs(binned.compute() - expected) <= binned.error_bound() + 1e-12


def test_ties_and_zeros_of_both_signs_count_one_half() -> None:
    for metric in (AUC(), ExactAUC()):
        assert feed(metric, np.array([0.0, -0.0], np.float32), np.array([1, 0])).compute() == 0.5


def test_logloss_and_calibration_are_the_definitions() -> None:
    logits, labels = stream(2)
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    assert feed(LogLoss(), logits, labels).compute() == pytest.approx(log_loss(labels, p), rel=1e-9)
    loss = feed(LogLoss(outputs="probabilities"), p, labels).compute()
    assert loss == pytest.approx(log_loss(labels, p), rel=1e-9)
    expected = p.mean() / labels.mean(dtype=np.float64)
    assert feed(Calibration(), logits, labels).compute() == pytest.approx(expected, rel=1e-9)
    ratio = feed(Calibration(outputs="probabilities"), p, labels).compute()
    assert ratio == pytest.approx(expected, rel=1e-9)


def test_extreme_logits_neither_overflow_nor_warn() -> None:
    logits = np.array([1e4, -1e4, 1e4, -1e4], np.float32)
    labels = np.array([1, 0, 0, 1])
    with np.errstate(over="raise", invalid="raise"):
        metrics = feed(ClickMetrics(), logits, labels)
    assert metrics.compute() == {"auc": 0.5, "logloss": 5000.0, "calibration": 1.0}


@pytest.mark.parametrize("make", [AUC, ExactAUC, LogLoss, Calibration, ClickMetrics])
def test_a_saved_state_goes_on_with_the_same_bits(make: Callable[[], Any]) -> None:
    logits, labels = stream(3)
    whole = feed(make(), logits, labels)
    first = feed(make(), logits[:2100], labels[:2100])
    second = make()
    second.load_state(first.state())
    feed(second, logits[2100:], labels[2100:])
    assert second.compute() == whole.compute()


def test_tensors_of_any_shape_and_dtype_are_taken() -> None:
    logits, labels = stream(4, 600)
    expected = feed(ClickMetrics(), logits, labels).compute()
    column = torch.from_numpy(logits).view(-1, 1).requires_grad_()
    assert feed(ClickMetrics(), column, torch.from_numpy(labels).int()).compute() == expected
    halves = ClickMetrics()
    halves.update(torch.tensor([1.0, -1.0], dtype=torch.bfloat16), torch.tensor([True, False]))
    assert halves.compute()["auc"] == 1.0


def test_without_both_classes_or_with_a_nan_there_is_no_auc() -> None:
    for metric in (AUC(), ExactAUC()):
        assert math.isnan(metric.compute())
        metric.update(np.array([0.5]), np.array([1]))
        assert math.isnan(metric.compute())
        metric.update(np.array([0.1, np.nan]), np.array([0, 0]))
        assert math.isnan(metric.compute())
    assert math.isnan(feed(LogLoss(), np.array([np.nan]), np.array([1])).compute())
    assert math.isnan(Calibration().compute())


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([0.1, 0.2], [1], r"scores \(2,\) and labels \(1,\)"),
        ([0.1], [0.5], "labels 0 or 1, got 0.5"),
    ],
)
def test_what_does_not_fit_is_refused(scores: Any, labels: Any, message: str) -> None:
    with pytest.raises(em.InvalidArgument, match=message):
        ClickMetrics().update(np.array(scores), np.array(labels))


def test_outputs_and_bins_are_checked() -> None:
    with pytest.raises(em.InvalidArgument, match="outputs must be"):
        LogLoss(outputs="scores")  # type: ignore[arg-type]
    with pytest.raises(em.InvalidArgument, match="bins_log2 must lie in"):
        AUC(bins_log2=40)
