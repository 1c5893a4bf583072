"""`embery checkpoint` and `embery restore` on real clusters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embery as em
from embery.cli import main as cli

KEYS = np.arange(1000, dtype=np.uint64)


def run(capsys: Any, *argv: str) -> tuple[int, Any, str]:
    code = cli.main(argv)
    out, err = capsys.readouterr()
    return code, json.loads(out) if out and "--json" in argv else out, err


def test_what_was_saved_from_two_servers_is_restored_into_one(
    run_cluster: Any, tmp_path: Path, capsys: Any
) -> None:
    dest = str(tmp_path)
    with run_cluster(2) as url, em.connect(url) as store:
        store.create_table(em.Table("item", dim=2))
        store.pull("item", KEYS)
        code, saved, _ = run(capsys, "checkpoint", dest, "--store", url, "--json")
        assert code == 0
        assert saved["checkpoint"] == str(tmp_path / "checkpoint-00000001" / "manifest.json")
        assert (saved["kind"], saved["tables"]) == ("full", {"item": 1000})
        store.push("item", KEYS[:10], np.ones((10, 2), np.float32))
        code, saved, _ = run(
            capsys, "checkpoint", dest, "--delta", "--keep", "1", "--store", url, "--json"
        )
        assert (code, saved["kind"], saved["base"], saved["tables"]) == (
            0,
            "delta",
            1,
            {"item": 10},
        )
        expected = store.pull("item", KEYS, train=False)
    with run_cluster(1) as url, em.connect(url) as store:
        code, said, _ = run(capsys, "restore", dest, "--store", url)
        assert code == 0
        assert "checkpoint-00000002/manifest.json, a delta of number 1: 10 rows of 1 tables" in said
        store.create_table(em.Table("item", dim=2))
        assert np.array_equal(store.pull("item", KEYS, train=False), expected)


def test_what_cannot_be_restored_is_said_in_a_line_and_changes_nothing(
    run_cluster: Any, tmp_path: Path, capsys: Any
) -> None:
    with em.connect("embedded:") as store:
        store.create_table(em.Table("item", dim=3))
        path = Path(store.checkpoint(tmp_path / "saved"))
    with run_cluster(1) as url, em.connect(url) as store:
        store.create_table(em.Table("item", dim=2, initializer=em.init.Constant(4.0)))
        store.pull("item", KEYS)
        for source, message in [
            (tmp_path, "was never completed"),
            (path, "dim: it has 2, this one 3"),
        ]:
            code, said, err = run(capsys, "restore", str(source), "--store", url)
            assert (code, said) == (1, "")
            assert message in err
            assert err.count("\n") == 1
        next(path.parent.glob("table-0.*")).unlink()
        code, _, err = run(capsys, "restore", str(path), "--store", url)
        assert code == 1
        assert "the checkpoint is incomplete" in err
        assert (store.pull("item", KEYS, train=False) == 4.0).all()


@pytest.mark.parametrize("command", ["checkpoint", "restore"])
def test_a_store_that_is_no_cluster_is_said(
    capsys: Any, tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EMBERY_STORE", raising=False)
    with em.connect("embedded:") as store:
        store.checkpoint(tmp_path)
    code, _, err = run(capsys, command, str(tmp_path), "--store", "embedded:")
    assert code == 1
    assert "is not a cluster; give --store" in err
