"""Ids that die, meanings that drift, histories: stateless, and with an optimum that stays true."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from embery.data import Batch, ClickLog, Parquet, Synthetic, optimum
from embery.data.block import Bags
from embery.data.clicklog import ClickRows
from embery.data.meaning import Knowledge
from embery.data.synthetic import expected_auc, expected_logloss, main, write_parquet
from embery.errors import InvalidArgument

Same = Callable[[list[Batch], list[Batch]], None]
F64 = NDArray[np.float64]

PLAIN: dict[str, Any] = {
    "seed": 3,
    "cardinalities": (300, 200, 100, 50, 20),
    "missing": (0.0, 0.3),
}
LIFE, PERIOD, HISTORY = 40_000, 400_000, 8
DYING = ClickLog(**PLAIN, id_life_rows=LIFE)
DRIFTING = ClickLog(**PLAIN, drift_rows=PERIOD)
REMEMBERING = ClickLog(**PLAIN, history=HISTORY)
ALL = ClickLog(**PLAIN, id_life_rows=LIFE, drift_rows=PERIOD, history=HISTORY)
LOGS = pytest.mark.parametrize(
    "log", [DYING, DRIFTING, REMEMBERING, ALL], ids=["life", "drift", "history", "all"]
)
# Rows 1,000,000 to 1,000,002 of ALL.
GOLDEN_IDS = [
    [7512, 5021, 2502, 1263, 502],
    [7663, 5001, 2516, 1250, 501],
    [7705, 5002, 2503, 1250, 500],
]
GOLDEN_LENGTHS = [8, 3, 0]
GOLDEN_HISTORY = [5001, 5065, 5001, 5059, 5104, 5005, 5000, 5007, 5001, 5006, 5030]
GOLDEN_PROBABILITY = [0.1398596018583355, 0.02099888566875821, 0.2307835465287208]
NOTHING = Knowledge(tuple(np.empty(0, np.uint64) for _ in PLAIN["cardinalities"]), 0)


def frozen(log: ClickLog, rows: ClickRows, when: int) -> F64:
    """Return the log-odds by what the ids of the rows meant in row `when`."""
    return log.logit(replace(rows, rows=np.full_like(rows.rows, when)))


# -- every option ---------------------------------------------------------------------------------


@LOGS
def test_clicks_come_at_the_mean_probability(log: ClickLog) -> None:
    for begin in (0, 10**7, 2**62):
        rows = log.rows(begin, begin + 100_000)
        assert rows.click.mean() == pytest.approx(rows.probability.mean(), abs=0.005)


@pytest.mark.parametrize("log", [DYING, DRIFTING, REMEMBERING], ids=["life", "drift", "history"])
def test_the_click_rate_is_the_wanted_one_in_the_long_run(log: ClickLog) -> None:
    # Twenty stretches that fall into different lives, and spread over a period of the drift.
    means = [log.rows(i * 140_000, i * 140_000 + 3000).probability.mean() for i in range(20)]
    assert np.mean(means) == pytest.approx(log.ctr, abs=0.02)


@LOGS
@given(begin=st.integers(0, 2**62), before=st.integers(0, 60), after=st.integers(0, 60))
def test_a_row_is_the_same_in_any_block(log: ClickLog, begin: int, before: int, after: int) -> None:
    whole = log.rows(begin, begin + 130)
    part = log.rows(begin + before, begin + 130 - after)
    inside = slice(before, 130 - after)
    for column in fields(ClickRows):
        a, b = getattr(whole, column.name), getattr(part, column.name)
        if isinstance(a, Bags):
            bags = a.slice(inside.start, inside.stop)
            assert np.array_equal(bags.values, b.values)
            assert np.array_equal(bags.lengths(), b.lengths())
        elif a is not None:
            assert np.array_equal(a[..., inside], b)
    records = log.records(begin, begin + 130).slice(before, 130 - after - before)
    assert log.records(begin + before, begin + 130 - after).equals(records)


@LOGS
def test_the_log_is_the_same_generated_and_read_from_files(
    log: ClickLog, tmp_path: Path, assert_same_batches: Same
) -> None:
    write_parquet(log, range(5, 3005), tmp_path, file_rows=2000)
    read = Parquet(tmp_path, schema=log.schema, batch_size=512)
    assert_same_batches(list(Synthetic(3000, offset=5, log=log, batch_size=512)), list(read))


@LOGS
def test_the_optimum_is_what_the_true_probabilities_reach(log: ClickLog) -> None:
    rows = log.rows(100_000, 150_000)
    best = optimum(log, train=range(100_000), test=range(100_000, 150_000))
    click = rows.click.astype(np.float64)
    assert expected_auc(rows.probability, click) == pytest.approx(best.auc, abs=0.01)
    assert expected_logloss(rows.probability, click) == pytest.approx(best.logloss, abs=0.01)
    assert best.ctr == rows.probability.mean()
    assert best.learnable_auc <= best.auc
    assert best.learnable_logloss >= best.logloss


def test_options_that_are_off_leave_the_log_as_it_was() -> None:
    plain = ClickLog(**PLAIN)
    assert ClickLog(**PLAIN, id_life_rows=None, drift_rows=None, history=0) == plain
    rows = plain.rows(2**40, 2**40 + 100)
    assert np.array_equal(rows.ids, rows.ranks)
    assert rows.history is None
    assert plain.records(0, 1).schema.names == ["label", "i1", "i2", *plain.names]
    # Neither a history nor a life that outlasts the rows changes what else stands in a row.
    for log in (REMEMBERING, ClickLog(**PLAIN, id_life_rows=2**40)):
        drawn = log.draws(0, 1000)
        assert np.array_equal(drawn.ids, plain.draws(0, 1000).ids)
        assert np.array_equal(drawn.counts, plain.draws(0, 1000).counts)


def test_golden_rows_with_every_option_never_change() -> None:
    rows = ALL.rows(10**6, 10**6 + 3)
    assert rows.history is not None
    assert rows.ids.T.tolist() == GOLDEN_IDS
    assert rows.history.lengths().tolist() == GOLDEN_LENGTHS
    assert rows.history.values.tolist() == GOLDEN_HISTORY
    np.testing.assert_allclose(rows.probability, GOLDEN_PROBABILITY, rtol=1e-9)


@pytest.mark.parametrize(
    "wrong",
    [
        {"id_life_rows": 0},
        {"id_life_rows": 1.5},
        {"drift_rows": 0},
        {"drift_rows": 2**40 + 1},
        {"history": -1},
        {"history": 1025},
    ],
)
def test_an_option_out_of_range_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match=f"ClickLog.{next(iter(wrong))}"):
        ClickLog(**wrong)


def test_the_command_takes_every_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--rows", "300", "--test-rows", "50", "--out", str(tmp_path), "--json"]
    options = ["--id-life-rows", "200", "--drift-rows", "900", "--history", "4"]
    assert main([*command, *options]) == 0
    log = ClickLog(id_life_rows=200, drift_rows=900, history=4)
    best = optimum(log, train=range(300), test=range(300, 350))
    assert json.loads(capsys.readouterr().out)["auc"] == best.auc
    written = pa.parquet.read_table(tmp_path / "train").to_batches()[0]
    assert written.equals(log.records(0, 300))
    assert main([*command, "--history", "-1"]) == 1
    assert "ClickLog.history must lie in" in capsys.readouterr().err


# -- birth and death of ids -----------------------------------------------------------------------


def test_an_id_lives_so_many_rows_and_never_comes_back() -> None:
    life = 1000
    log = ClickLog(**PLAIN, id_life_rows=life)
    drawn = log.draws(0, 30_000)
    records = log.records(0, 30_000)
    numbers = np.arange(30_000)
    for field, cardinality in enumerate(log.cardinalities):
        keys = records.column(log.names[field]).to_numpy()
        distinct, place = np.unique(keys, return_inverse=True)
        first, last = np.full(len(distinct), 30_000), np.full(len(distinct), -1)
        np.minimum.at(first, place, numbers)
        np.maximum.at(last, place, numbers)
        assert (last - first).max() < life
        assert (last - first).max() > 0.9 * life
        # One key an id, and about as many ids of the first rank as lives fit into the rows.
        assert len(distinct) == len(np.unique(drawn.ids[field]))
        heads = np.unique(drawn.ids[field][drawn.ranks[field] == 0])
        assert len(heads) == 31
        assert (heads % cardinality == 0).all()


def test_ids_die_at_different_times() -> None:
    drawn = DYING.draws(0, LIFE)
    is_second = drawn.ids[0] >= DYING.cardinalities[0]
    # The first rows in which one of the eight most frequent users has been replaced.
    deaths = [np.flatnonzero((drawn.ranks[0] == rank) & is_second) for rank in range(8)]
    first = [int(rows[0]) for rows in deaths if len(rows)]
    assert len(first) >= 7
    assert max(first) - min(first) > LIFE / 4


def test_what_can_be_learnt_is_below_the_optimum_where_ids_die() -> None:
    train = range(100_000)

    def gap(log: ClickLog, begin: int) -> float:
        best = optimum(log, train=train, test=range(begin, begin + 10_000))
        return best.auc - best.learnable_auc

    assert gap(ClickLog(**PLAIN), 100_000) < 0.002
    assert 0.02 < gap(DYING, 100_000) < gap(DYING, 120_000) < gap(DYING, 200_000)


def test_nothing_learnt_of_dead_ids_helps() -> None:
    rows = DYING.rows(200_000, 210_000)
    best = optimum(DYING, train=range(100_000), test=range(200_000, 210_000))
    assert best.learnable_auc == expected_auc(DYING.logit(rows, NOTHING), rows.probability)
    # Nor does what their successors in rank mean: the old meanings, applied to the new ids.
    cards = np.array(DYING.cardinalities, np.uint64)[:, None]
    old = DYING.logit(replace(rows, ids=rows.ids % cards))
    assert abs(expected_auc(old, rows.probability) - best.learnable_auc) < 0.06


# -- drift ----------------------------------------------------------------------------------------


def test_meanings_turn_and_come_back_after_a_period() -> None:
    rows = DRIFTING.rows(0, 20_000)
    true = expected_auc(rows.probability, rows.probability)
    without = expected_auc(DRIFTING.logit(rows, NOTHING), rows.probability)
    auc = {
        share: expected_auc(frozen(DRIFTING, rows, int(share * PERIOD)), rows.probability)
        for share in (0.02, 0.1, 0.25, 1.02)
    }
    assert auc[0.02] > true - 0.01
    assert auc[0.02] > auc[0.1] > auc[0.25]
    assert auc[1.02] == auc[0.02]
    # A quarter of a period away, the old weights are as good as none: a few frequent ids, and so
    # chance, keep a little.
    assert true - without > 0.15
    assert abs(auc[0.25] - without) < 0.2 * (true - without)


def test_the_number_of_the_row_alone_says_what_ids_mean() -> None:
    rows = DRIFTING.rows(70_000, 70_100)
    np.testing.assert_array_equal(frozen(DRIFTING, rows, 5), frozen(DRIFTING, rows, 5 + PERIOD))
    logit = np.log(rows.probability / (1 - rows.probability))
    np.testing.assert_allclose(DRIFTING.logit(rows), logit, rtol=1e-9)
    assert not np.allclose(frozen(DRIFTING, rows, 5), frozen(DRIFTING, rows, 5 + PERIOD // 8))


@pytest.mark.parametrize("share", [0.0, 0.05, 0.15, 0.25, 0.5, 0.7, 1.0])
def test_the_ceiling_is_above_a_model_that_stays_as_it_was(share: float) -> None:
    end = 100_000
    begin = end + int(share * PERIOD)
    rows = DRIFTING.rows(begin, begin + 10_000)
    best = optimum(DRIFTING, train=range(end), test=range(begin, begin + 10_000))
    stale = frozen(DRIFTING, rows, end)
    loss = expected_logloss(1 / (1 + np.exp(-stale)), rows.probability)
    assert expected_auc(stale, rows.probability) <= best.learnable_auc + 0.01
    assert loss >= best.learnable_logloss - 0.002
    assert best.learnable_auc <= best.auc
    if share in (0.0, 1.0):
        assert best.auc - best.learnable_auc < 0.005
    if share == 0.25:
        without = expected_auc(DRIFTING.logit(rows, NOTHING), rows.probability)
        assert best.learnable_auc < without + 0.02
