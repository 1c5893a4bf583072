"""The benchmarks' workloads keep their bytes, and their targets judge rightly."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from benchmarks import workloads
from benchmarks.cases import Flat, Most, Ratio, Setting, w1_case, w2_case
from benchmarks.report import report


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def setting(data: Path, peers: Path | None = None) -> Setting:
    return Setting(
        data=data,
        peers=peers,
        peers_python=peers,
        tensorflow_python=peers,
        limit=data / "limit",
        steps=1,
        threads=2,
    )


def test_w1_has_the_same_bytes_as_ever(tmp_path: Path) -> None:
    keys = workloads.w1_keys(tmp_path, 1000)
    assert keys.shape == (40, 4096 * 26)
    assert keys.min() == 0
    assert keys.max() == 999
    assert digest(keys) == "4501147c1a26bb69"
    assert (tmp_path / "w1_1000_40_20240501.npy").exists()


def test_w2_has_the_same_bytes_as_ever(tmp_path: Path) -> None:
    keys, dense, label = workloads.w2_batches(tmp_path)
    assert [x.shape for x in (keys, dense, label)] == [
        (60, 2048, 26),
        (60, 2048, 13),
        (60, 2048, 1),
    ]
    assert [digest(x) for x in (keys, dense, label)] == [
        "7e297ffdf3d6fd6f",
        "627d943602636788",
        "ea5607147d817471",
    ]


def test_distinct_keys_are_distinct_in_each_batch(tmp_path: Path) -> None:
    path = workloads.distinct_keys(tmp_path, 200_000)
    for batch in np.fromfile(path, np.uint64).reshape(-1, workloads.W1_KEYS):
        assert len(np.unique(batch)) == workloads.W1_KEYS
        assert batch.max() < 200_000


def test_a_ratio_is_that_of_the_medians() -> None:
    values = {("a", "m"): [3.0, 1.0, 30.0], ("b", "m"): [2.0, 2.0, 2.0]}
    verdict = Ratio("a", "b", "m", 1.5).judge(values)
    assert verdict.met
    assert verdict.found == "1.50 (0.50 to 15.00)"
    assert not Ratio("a", "b", "m", 1.51).judge(values).met


@pytest.mark.parametrize(("most", "met"), [(2.0, True), (1.9, False)])
def test_a_limit_holds_for_the_median(most: float, met: bool) -> None:
    assert Most("a", "m", most).judge({("a", "m"): [1.0, 2.0, 9.0]}).met is met


def test_flatness_compares_the_slowest_with_the_fastest() -> None:
    values = {("a", "m"): [4.0], ("b", "m"): [3.0], ("c", "m"): [3.5]}
    verdict = Flat(("a", "b", "c"), "m", 0.75).judge(values)
    assert verdict.met
    assert verdict.what == "m: b / a"
    assert verdict.found == "0.75"
    assert not Flat(("a", "b", "c"), "m", 0.76).judge(values).met


def test_without_peers_the_store_runs_alone(tmp_path: Path) -> None:
    case = w1_case(setting(tmp_path), 1000)
    assert [x.name for x in case.contenders] == ["embery"]
    assert case.targets == ()


def test_every_target_names_contenders_of_its_case(tmp_path: Path) -> None:
    for case in (w1_case(setting(tmp_path, tmp_path), 1000), w2_case(setting(tmp_path, tmp_path))):
        names = {x.name for x in case.contenders}
        assert case.targets
        for target in case.targets:
            assert isinstance(target, Ratio)
            assert {target.ours, target.theirs} <= names


def test_the_report_says_which_target_was_missed(tmp_path: Path) -> None:
    case = w1_case(setting(tmp_path, tmp_path), 1000)
    figures = [
        {
            "contender": contender, "metric": metric, "value": value, "load1": 0.5,
            "foreign_share": 0.01, "stolen_share": 0.02,
        }
        for contender, value in (("embery", 1.3e7), ("fbgemm_rowwise", 1.0e7))
        for metric in ("lookup_rows_per_s", "update_rows_per_s", "cycle_rows_per_s")
    ]  # fmt: skip
    text = report([(case, figures)], setting(tmp_path), rounds=1)
    lines = text.splitlines()
    (lookup,) = [x for x in lines if x.startswith("| lookup_rows_per_s: embery")]
    (cycle,) = [x for x in lines if x.startswith("| cycle_rows_per_s: embery")]
    assert lookup.endswith("| >= 1.5 | **no** |")
    assert cycle.endswith("| >= 1.2 | yes |")
    assert "| embery | cycle_rows_per_s | 13.00 M | 13.00 M | 13.00 M |" in text


def test_no_target_is_met_or_missed_on_a_busy_machine(tmp_path: Path) -> None:
    case = w1_case(setting(tmp_path, tmp_path), 1000)
    figures = [
        {
            "contender": contender, "metric": metric, "value": value, "load1": 0.5,
            "foreign_share": 0.5 if contender == "fbgemm_rowwise" else 0.0, "stolen_share": 0.0,
        }
        for contender, value in (("embery", 3.0e7), ("fbgemm_rowwise", 1.0e6))
        for metric in ("lookup_rows_per_s", "update_rows_per_s", "cycle_rows_per_s")
    ]  # fmt: skip
    text = report([(case, figures)], setting(tmp_path), rounds=1)
    assert text.count("| undecided: others 50% |") == len(case.targets)
    assert "| yes |" not in text
