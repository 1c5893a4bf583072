"""The synthetic click log: the same bytes in any part and any form, and a true optimum."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embery.data import Batch, ClickLog, Parquet, Synthetic, optimum
from embery.data.synthetic import expected_auc, expected_logloss, main, write_parquet
from embery.errors import InvalidArgument

Same = Callable[[list[Batch], list[Batch]], None]
LOG = ClickLog(seed=3, cardinalities=(300, 200, 100, 50, 20), missing=(0.0, 0.3))


def test_a_part_of_the_log_is_the_same_on_its_own() -> None:
    whole = LOG.records(1000, 1200)
    assert LOG.records(1070, 1130).equals(whole.slice(70, 60))
    assert ClickLog(seed=3, cardinalities=LOG.cardinalities, missing=LOG.missing) == LOG
    assert (
        not ClickLog(seed=4, cardinalities=LOG.cardinalities, missing=LOG.missing)
        .records(1000, 1200)
        .equals(whole)
    )


def test_golden_rows_of_the_default_log_never_change() -> None:
    rows = ClickLog().rows(0, 3)
    assert rows.ranks.T.tolist() == [
        [236, 425, 0, 26, 9, 21, 31, 18, 1, 2],
        [0, 1, 68, 2, 41, 14, 44, 25, 0, 0],
        [134, 84, 19, 0, 0, 90, 0, 2, 1, 2],
    ]
    assert np.where(rows.missing, -9, rows.counts).T.tolist() == [
        [12, 2, 7, 0, 37],
        [2, 5, 5, 52, -9],
        [3, 1, 6, 49, 8],
    ]
    golden = [0.05863229254211825, 0.04347311151257382, 0.03345617329398146]
    np.testing.assert_allclose(rows.probability, golden, rtol=1e-9)
    last = ClickLog().rows(2**63 - 1, 2**63)
    assert last.ranks.shape == (10, 1)


def test_the_log_is_the_same_generated_and_read_from_files(
    tmp_path: Path, assert_same_batches: Same
) -> None:
    paths = write_parquet(LOG, range(5, 5005), tmp_path, file_rows=2000)
    assert [p.name for p in paths] == [f"part-0000{i}.parquet" for i in range(3)]
    read = Parquet(tmp_path, schema=LOG.schema, batch_size=512)
    made = Synthetic(5000, offset=5, log=LOG, batch_size=512)
    assert made.rows == range(5, 5005)
    assert_same_batches(list(made), list(read))


def test_a_generated_epoch_resumes_bit_for_bit(
    assert_same_batches: Same, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embery.data.synthetic._PIECE_ROWS", 300)
    data = Synthetic(2000, log=LOG, batch_size=64, shuffle=True, shuffle_rows=500, seed=1)
    whole = list(data.batches(epoch=1))
    assert_same_batches(whole[20:], list(data.batches(epoch=1, start=20)))
    assert sum(len(b) for b in whole) == data.num_rows == 2000


def test_clicks_counts_and_missing_values_have_their_rates() -> None:
    log = ClickLog(ctr=0.1, missing=(0.0, 0.25))
    rows = log.rows(0, 100_000)
    assert rows.click.mean() == pytest.approx(0.1, abs=0.01)
    assert rows.click.mean() == pytest.approx(rows.probability.mean(), abs=0.004)
    assert rows.missing.mean(axis=1).tolist() == pytest.approx([0.0, 0.25], abs=0.01)
    assert rows.counts.min() >= -1


def test_most_fields_depend_on_user_or_item_and_ids_are_skewed() -> None:
    ranks = ClickLog().rows(0, 50_000).ranks
    same_user = ranks[:, ranks[0] == 0]
    # Nine in ten rows of one user agree in the field c1, which depends on the user.
    assert np.bincount(same_user[2]).max() / same_user.shape[1] > 0.85
    assert np.bincount(ranks[9]).max() / ranks.shape[1] < 0.5
    assert np.bincount(ranks[0])[0] > 5 * np.bincount(ranks[0])[50]


@given(
    st.lists(st.sampled_from([0.1, 0.25, 0.5, 0.9]), min_size=2, max_size=12),
    st.lists(st.integers(0, 3), min_size=12, max_size=12),
)
def test_expected_auc_is_the_sum_over_pairs(probability: list[float], score: list[int]) -> None:
    p, s = np.array(probability), np.array(score[: len(probability)], np.float64)
    pairs = np.outer(p, 1 - p)
    np.fill_diagonal(pairs, 0.0)
    wins = (s[:, None] > s[None, :]) + 0.5 * (s[:, None] == s[None, :])
    assert expected_auc(s, p) == pytest.approx((pairs * wins).sum() / pairs.sum())


def test_the_optimum_is_what_the_true_probabilities_reach() -> None:
    rows = LOG.rows(50_000, 100_000)
    best = optimum(LOG, train=range(50_000), test=range(50_000, 100_000))
    click = rows.click.astype(np.float64)
    assert expected_auc(rows.probability, click) == pytest.approx(best.auc, abs=0.01)
    assert expected_logloss(rows.probability, click) == pytest.approx(best.logloss, abs=0.01)
    perturbed = rows.probability + 0.05 * np.sin(np.arange(len(click)))
    assert expected_auc(perturbed, rows.probability) < best.auc
    assert best.ctr == pytest.approx(LOG.ctr, abs=0.01)


def test_fewer_training_rows_lower_what_can_be_learnt() -> None:
    test = range(10**6, 10**6 + 20_000)
    reached = [optimum(LOG, train=range(n), test=test) for n in (0, 2_000, 200_000)]
    assert reached[0].auc == reached[2].auc
    aucs = [r.learnable_auc for r in reached]
    losses = [r.learnable_logloss for r in reached]
    assert aucs == sorted(aucs)
    assert losses == sorted(losses, reverse=True)
    assert reached[0].auc - aucs[0] > 0.05
    assert reached[2].auc - aucs[2] < 0.002


@pytest.mark.parametrize(
    "wrong",
    [
        {"ctr": 0.0},
        {"ctr": 1.0},
        {"seed": -1},
        {"cardinalities": (5,)},
        {"cardinalities": (5, 1)},
        {"missing": (1.5,)},
        {"interaction": -1.0},
    ],
)
def test_a_log_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument, match=f"ClickLog.{next(iter(wrong))}"):
        ClickLog(**wrong)  # type: ignore[arg-type]


def test_the_command_writes_both_parts_and_prints_the_optimum(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "clicks"
    command = ["--rows", "3000", "--test-rows", "1000", "--out", str(out), "--seed", "9"]
    assert main([*command, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    log = ClickLog(seed=9)
    assert printed["auc"] == optimum(log, train=range(3000), test=range(3000, 4000)).auc
    assert printed["learnable_auc"] < printed["auc"]
    train = Parquet(out / "train", schema=log.schema, batch_size=100)
    assert (train.num_rows, len(list(out.glob("test/*.parquet")))) == (3000, 1)
    assert (
        pa.parquet.read_table(out / "test")["user"][0].as_py()
        == log.records(3000, 3001)["user"][0].as_py()
    )


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--rows", "0", "--out", str(tmp_path)]) == 1
    assert "--rows must lie in" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main(["--rows", "1", "--out", str(tmp_path / "file")]) == 1
    assert "file" in capsys.readouterr().err
