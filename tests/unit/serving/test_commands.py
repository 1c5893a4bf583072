"""`embery export` and `embery eval`, as typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embery.cli.main import main
from embery.serving.bundle import Bundle


def test_parquet_has_the_rows_of_every_table(
    trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", trained.checkpoint, str(tmp_path / "rows"), "--format", "parquet"]
    assert main([*command, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert sorted(path.name for path in (tmp_path / "rows").iterdir()) == [
        "item.parquet",
        "user.parquet",
    ]
    rows = pq.read_table(tmp_path / "rows" / "item.parquet")
    assert rows.num_rows == trained.store.stats()["tables"]["item"]["rows"]
    assert report["rows"] > rows.num_rows
    keys = rows["key"].to_numpy()
    expected = trained.store.pull("item", keys, train=False)
    np.testing.assert_array_equal(np.stack(rows["embedding"].to_numpy()), expected)
    assert rows["count"].to_numpy().min() > 0


def test_a_bundle_needs_its_model(
    trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", trained.checkpoint, str(tmp_path / "b")]) == 1
    assert "--model is needed" in capsys.readouterr().err
    for model in ("nowhere:f", "json:nothing", "json:loads", f"{tmp_path}/gone.py:f"):
        command = ["export", trained.checkpoint, str(tmp_path / "b"), "--model", model]
        arguments = ["--model-args", "{}"] if model == "json:loads" else []
        assert main([*command, *arguments]) == 1
        assert "--model" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_eval_prints_the_metrics_of_a_bundle(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = pa.table(
        {
            "click": [0, 1, 1, 0],
            "price": [1.0, 2.0, 3.0, 4.0],
            "age": [1.0, 2.0, None, 4.0],
            "user": [1, 2, 3, 4],
            "clicked": [[1], [], [2, 3], [4]],
            "seconds": [[1.0], [], [0.5, 2.0], [1.0]],
            "words": [[1, 2, 3], [4], [], [5]],
        }
    )
    pq.write_table(rows, tmp_path / "test.parquet")
    assert main(["eval", str(bundle.path), str(tmp_path / "test.parquet"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["rows"] == 4
    assert 0 <= report["auc"] <= 1
    assert report["logloss"] > 0
    assert main(["eval", str(tmp_path), str(tmp_path / "test.parquet")]) == 1
    assert "manifest.json" in capsys.readouterr().err
