"""The `embery` command: exit codes, one line an error, nothing loaded that is not needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import embery as em
from embery.cli import main as cli

ROOT = Path(__file__).parents[3]


def run(capsys: Any, *argv: str) -> tuple[int, str, str]:
    try:
        code = cli.main(argv)
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def test_help_names_every_command(capsys: Any) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert all(name in out for name in cli.COMMANDS)


# Commands that run until they are told to end, and have nothing to report.
ROLES = {"run", "coordinator", "ps", "serve", "worker"}


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_of_a_command_gives_an_example_and_json(capsys: Any, command: str) -> None:
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    assert f"example:\n  embery {command}" in out
    assert command in ROLES or "--json" in out


def test_version(capsys: Any) -> None:
    assert run(capsys, "--version") == (0, f"embery {em.__version__}\n", "")


@pytest.mark.parametrize(
    "argv", [(), ("nonsense",), ("inspect",), ("inspect", "a", "b", "c", "d"), ("--nonsense",)]
)
def test_misuse_is_2_and_says_how_it_is_used(capsys: Any, argv: tuple[str, ...]) -> None:
    code, out, err = run(capsys, *argv)
    assert code == 2
    assert out == ""
    assert err.startswith("usage: embery")


def test_an_error_is_one_line_and_1(capsys: Any, tmp_path: Path) -> None:
    code, out, err = run(capsys, "inspect", str(tmp_path / "absent"), "item")
    assert (code, out) == (1, "")
    assert err.startswith("embery: error: ")
    assert err.count("\n") == 1


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    with pytest.raises(em.CheckpointCorrupt):
        cli.main(["--debug", "inspect", str(tmp_path / "absent"), "item"])


def test_an_interrupt_is_one_line_and_1(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_arguments: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("embery.cli.inspect.run", interrupt)
    assert run(capsys, "inspect", "a", "b") == (1, "", "embery: error: interrupted\n")


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_help_loads_neither_torch_nor_numpy_nor_pyarrow() -> None:
    heavy = "{'torch', 'numpy', 'pyarrow', 'embery._native'} & set(sys.modules)"
    program = (
        "import sys\nfrom embery.cli.main import main\n"
        f"try: main(['--help'])\nfinally: print({heavy})"
    )
    assert python("-c", program).stdout.endswith("set()\n")


def test_a_reader_that_stops_early_is_no_error() -> None:
    program = (
        "import os, sys\nfrom embery.cli import main, doctor\n"
        "reading, writing = os.pipe()\nos.close(reading)\nos.dup2(writing, 1)\n"
        "doctor.CHECKS = (doctor._versions,)\n"
        "def run(_): print('x' * 100_000, flush=True)\ndoctor.run = run\n"
        "sys.exit(main.main(['doctor']))"
    )
    done = python("-c", program)
    assert (done.returncode, done.stderr) == (0, "")
