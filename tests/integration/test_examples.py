"""The examples run as a reader runs them, in a short form, and learn what they say they learn."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
DATA = Path(os.environ.get("EMBERY_TEST_DATA", ROOT.parent / "shared" / "data"))
CONFIGS = sorted((EXAMPLES / "ctr" / "configs").glob("*.json"))


def run(script: str, *arguments: object, cwd: Path) -> str:
    """Run an example and return what it printed."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / script), *map(str, arguments)],
        cwd=cwd, check=False, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def figure(pattern: str, output: str) -> float:
    """Return the number that follows `pattern` in the output."""
    found = re.search(pattern + r"\s+([0-9.]+)", output)
    assert found, f"no {pattern!r} in:\n{output}"
    return float(found[1])


def folder(name: str) -> Path:
    """Return a folder of the test data, or skip."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"no test data at {path}; set EMBERY_TEST_DATA to the folder that holds {name}")
    return path


def shortened(config: str, to: Path, **model: object) -> Path:
    """Write a config with a smaller model, and return its path."""
    settings = json.loads((EXAMPLES / "ctr" / "configs" / config).read_text(encoding="utf-8"))
    settings["model"].update(model)
    path = to / config
    path.write_text(json.dumps(settings), encoding="utf-8")
    return path


@pytest.mark.timeout(300)
def test_quickstart_learns_and_leaves_a_checkpoint_to_inspect(tmp_path: Path) -> None:
    output = run("quickstart/train.py", "--rows", 60_000, cwd=tmp_path)
    reached, ceiling = figure("reached", output), figure("learnable ceiling", output)
    assert 0.6 < reached <= figure("best possible", output)
    assert ceiling <= figure("best possible", output)
    inspected = subprocess.run(
        [sys.executable, "-m", "embery.cli.main", "inspect", "checkpoints/quickstart", "user"],
        cwd=tmp_path, check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert inspected.returncode == 0, inspected.stderr
    assert "user" in inspected.stdout


@pytest.mark.timeout(300)
@pytest.mark.parametrize("model", ["lr", "dnn", "deepfm", "dcnv2", "dlrm"])
def test_every_click_model_learns_frappe(model: str, tmp_path: Path) -> None:
    data = folder("frappe_x1")
    config = shortened("frappe_dnn.json", tmp_path, name=model, hidden=[64, 32], cross_layers=2)
    settings = json.loads(config.read_text(encoding="utf-8"))
    settings["table"] = {"optimizer": {"kind": "adagrad", "lr": 0.1}, "init_std": 0.05}
    config.write_text(json.dumps(settings), encoding="utf-8")
    output = run("ctr/train.py", config, "--data", data, "--epochs", 1, cwd=tmp_path)
    assert figure("test AUC", output) > 0.85


@pytest.mark.timeout(300)
def test_criteo_config_learns_in_one_epoch(tmp_path: Path) -> None:
    data = folder("criteo_1tb_80k")
    config = EXAMPLES / "ctr" / "configs" / "criteo_sample_dcnv2.json"
    output = run("ctr/train.py", config, "--data", data, "--epochs", 1, cwd=tmp_path)
    assert figure("test AUC", output) > 0.62


@pytest.mark.timeout(300)
def test_criteo_tsv_is_read_as_the_config_says(tmp_path: Path) -> None:
    layout = folder("criteo_1tb_80k") / "criteo_layout.tsv.gz"
    config = shortened("criteo_sample_dcnv2.json", tmp_path, name="lr")
    settings = json.loads(config.read_text(encoding="utf-8"))
    settings["data"] = dict.fromkeys(("train", "valid", "test"), layout.name)
    settings["data"]["format"] = "criteo_tsv"
    config.write_text(json.dumps(settings), encoding="utf-8")
    output = run("ctr/train.py", config, "--data", layout.parent, "--epochs", 1, cwd=tmp_path)
    assert figure("test AUC", output) > 0.6


@pytest.mark.timeout(300)
def test_sequence_model_beats_popularity(tmp_path: Path) -> None:
    output = run("sequence/train.py", "--data", folder("ml_100k"), "--epochs", 1, cwd=tmp_path)
    assert figure("sequence model", output) > figure("popularity", output) > 0.65


def test_a_config_with_an_unknown_field_is_refused_by_name(tmp_path: Path) -> None:
    config = shortened("frappe_dnn.json", tmp_path, layers=3)
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "ctr" / "train.py"), str(config), "--data", str(tmp_path)],
        check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode != 0
    assert "model.layers is not known" in done.stderr


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_shipped_config_describes_a_model_and_its_tables(config: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from models import MODELS; from settings import *; "
        "settings = Settings.load(Path(sys.argv[1])); MODELS[settings.model.name]; "
        "settings.table.table('user', dim=1, seed=0)"
    )
    checked = subprocess.run(
        [sys.executable, "-c", program, str(config)],
        cwd=EXAMPLES / "ctr", check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stderr
