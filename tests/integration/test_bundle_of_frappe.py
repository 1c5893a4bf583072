"""A click model trained on Frappe_x1 scores from its bundle what it scored in training."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import embery as em
from embery.cli.main import main

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "ctr"
DATA = Path(os.environ.get("EMBERY_TEST_DATA", ROOT.parent / "shared" / "data"))
CONFIG = EXAMPLE / "configs" / "frappe_dnn.json"

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def frappe() -> Path:
    """Return the folder of the data set; skip where it is absent."""
    path = DATA / "frappe_x1"
    if not path.exists():
        pytest.skip(f"no test data at {path}; set EMBERY_TEST_DATA to the folder that holds it")
    return path


def test_scores_and_auc_of_the_whole_test_set(
    frappe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    from models import MODELS  # noqa: PLC0415
    from settings import Settings  # noqa: PLC0415

    # A quarter of the rows and a small tower: how good the model is does not matter here.
    shortened = json.loads(CONFIG.read_text(encoding="utf-8"))
    shortened["data"]["train"] = shortened["data"]["valid"]
    shortened["model"]["hidden"] = [64, 64]
    config = tmp_path / "config.json"
    config.write_text(json.dumps(shortened), encoding="utf-8")
    settings = Settings.load(config)
    torch.manual_seed(0)
    train, test = (
        settings.data.open(frappe, part, batch_size=4096, seed=0) for part in ("train", "test")
    )
    with em.connect("embedded:") as store:
        model = MODELS["dnn"](train.schema, settings, store, seed=0)
        optimizer = torch.optim.Adam(model.parameters(), lr=settings.train.lr)
        loss = torch.nn.functional.binary_cross_entropy_with_logits
        trainer = em.Trainer(model, loss, optimizer, store=store, mode=em.Sync())
        trainer.fit(train, epochs=1)
        trainer.save(tmp_path / "runs")
        metrics = trainer.evaluate(test)
        model.eval()
        with torch.no_grad():
            expected = torch.cat([model(batch) for batch in test]).numpy()
    command = ["export", str(tmp_path / "runs"), str(tmp_path / "bundle"),
               "--model", f"{EXAMPLE}/train.py:servable",
               "--model-args", str(config), str(frappe)]  # fmt: skip
    assert main(command) == 0
    from embery.serving.bundle import Bundle  # noqa: PLC0415

    scorer = Bundle.open(tmp_path / "bundle", verify=True).scorer()
    scores = np.concatenate([scorer.score(block) for block in test.blocks()])
    assert len(scores) == 28_860
    assert np.abs(scores - expected).max() < 1e-5
    capsys.readouterr()
    test_file = str(frappe / "test.parquet")
    assert main(["eval", str(tmp_path / "bundle"), test_file, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert math.isclose(report["auc"], metrics["auc"], abs_tol=1e-6)
    assert math.isclose(report["logloss"], metrics["logloss"], abs_tol=1e-5)
    assert math.isclose(report["calibration"], metrics["calibration"], abs_tol=1e-5)
