"""`embery worker`: a script as one worker, told by options or by the environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SHOW = """
import json, os, sys
names = ("EMBERY_STORE", "EMBERY_RANK", "EMBERY_WORLD_SIZE", "EMBERY_TRANSPORT",
         "EMBERY_TOKEN_FILE", "MASTER_ADDR", "MASTER_PORT")
print(json.dumps({"pid": os.getpid(), "argv": sys.argv[1:],
                  "env": {name: os.environ.get(name) for name in names}}))
sys.exit(7)
"""


def worker(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("EMBERY_", "MASTER_"))}
    return subprocess.run(
        [sys.executable, "-m", "embery.cli.main", "worker", *arguments],
        cwd=cwd,
        env={**kept, "PYTHONPATH": str(Path(__file__).parents[2]), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_options_come_before_the_environment_and_the_script_has_the_rest(tmp_path: Path) -> None:
    (tmp_path / "show.py").write_text(SHOW)
    options = ("--store", "embery://10.0.0.1:7070", "--rank", "1", "--master", "10.0.0.3:29500")
    done = worker(
        *options, "--token-file", "secret", "show.py", "--rank", "9",
        cwd=tmp_path, EMBERY_RANK="0", EMBERY_WORLD_SIZE="2", EMBERY_STORE="embery://other:1",
    )  # fmt: skip
    # The script took the place of the command: its exit code is what the engine sees.
    assert done.returncode == 7, done.stderr
    shown = json.loads(done.stdout)
    assert shown["argv"] == ["--rank", "9"]
    assert shown["env"] == {
        "EMBERY_STORE": "embery://10.0.0.1:7070",
        "EMBERY_RANK": "1",
        "EMBERY_WORLD_SIZE": "2",
        "EMBERY_TRANSPORT": None,
        "EMBERY_TOKEN_FILE": "secret",
        "MASTER_ADDR": "10.0.0.3",
        "MASTER_PORT": "29500",
    }


@pytest.mark.parametrize(
    ("arguments", "environment", "named"),
    [
        ((), {}, "EMBERY_STORE"),
        (("--store", "embedded:"), {}, "EMBERY_STORE"),
        (("--rank", "2", "--world-size", "2"), {"EMBERY_STORE": "embery://h:1"}, "0 <= rank"),
        (("--rank", "0", "--world-size", "2"), {"EMBERY_STORE": "embery://h:1"}, "--master"),
        (("--master", "nowhere"), {"EMBERY_STORE": "embery://h:1"}, "--master"),
    ],
)
def test_what_is_missing_is_named_and_nothing_runs(
    tmp_path: Path, arguments: tuple[str, ...], environment: dict[str, str], named: str
) -> None:
    (tmp_path / "show.py").write_text(SHOW)
    done = worker(*arguments, "show.py", cwd=tmp_path, **environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert named in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_script_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = worker("--store", "embery://h:1", "nothing.py", cwd=tmp_path)
    assert done.returncode == 2
    assert "nothing.py: there is no such file" in done.stderr
