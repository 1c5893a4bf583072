"""The house rules that a machine can check; ruff, mypy and clang-tidy hold the others.

A rule is a function from a file to its violations. Each rule is tried on the whole tree and on
samples that break it, so that a rule which stopped working is noticed.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROLES = ("ps", "worker", "coordinator", "serving")
FOLDERS = ("embery", *ROLES, "csrc", "proto", "tests", "examples", "benchmarks", "docs", ".ci")
CODE = {".py", ".pyi", ".cc", ".h", ".proto", ".sh"}
TEXT = CODE | {".md", ".toml", ".yaml", ".yml", ".json", ".txt", ".cfg", ".svg", ""}

FILE_LINES_MAX = 800
FILE_LINES_UNEXPLAINED_MAX = 500
FUNCTION_LINES_MAX = 70
LINE_COLUMNS_MAX = 100

Rule = Callable[[Path, str], Iterator[str]]


def files(suffixes: set[str]) -> Iterator[Path]:
    """Yield the project's own files, each once: the role symlinks are not followed."""
    yield from (p for p in ROOT.iterdir() if p.is_file() and p.suffix in suffixes)
    for folder in FOLDERS:
        for where, folders, names in os.walk(ROOT / folder):
            folders[:] = [f for f in folders if f != "__pycache__" and not f.startswith(".")]
            if Path(where) == ROOT / "embery" / "rpc" / "v1":  # Generated, in nobody's style.
                continue
            yield from (Path(where, n) for n in sorted(names) if Path(n).suffix in suffixes)


# -- Rules for every file -------------------------------------------------------------------------


def file_length(path: Path, text: str) -> Iterator[str]:
    """Files stay below 500 lines, or say near the top why not; never above 800."""
    lines = text.splitlines()
    explained = "This file is long because" in "\n".join(lines[:30])
    if len(lines) > FILE_LINES_MAX:
        yield f"{len(lines)} lines, at most {FILE_LINES_MAX} are allowed"
    elif len(lines) > FILE_LINES_UNEXPLAINED_MAX and not explained:
        yield f'{len(lines)} lines: say "This file is long because ..." in its header'


def line_width(path: Path, text: str) -> Iterator[str]:
    """Lines of code have at most 100 columns; what silences a linter is not counted."""
    for number, whole in enumerate(text.splitlines(), 1):
        line = re.sub(r"\s+# (type: ignore|noqa|fmt:).*", "", whole)
        if len(line) > LINE_COLUMNS_MAX and path.suffix in CODE and "https://" not in line:
            yield f"line {number} has {len(line)} columns, at most {LINE_COLUMNS_MAX} are allowed"


def vague_name(path: Path, text: str) -> Iterator[str]:
    """A file or folder is named for what it holds."""
    vague = {"utils", "util", "misc", "common", "helper", "helpers", "manager"}
    for part in path.with_suffix("").parts:
        if vague & set(part.lower().split("_")):
            yield f"the name {part!r} does not say what is inside"


def machine_path(path: Path, text: str) -> Iterator[str]:
    """No file names a place that exists on one machine only."""
    for number, line in enumerate(text.splitlines(), 1):
        if found := re.search(r"(?<![\w.$}])/(work|home|root|Users)/\w+", line):
            yield f"line {number} names a path of one machine: {found[0]}"


# -- Rules for Python -----------------------------------------------------------------------------

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(tree: ast.AST) -> Iterator[Function]:
    """Yield every function and method of a module."""
    yield from (n for n in ast.walk(tree) if isinstance(n, Function))


def called(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and dotted name of every call, such as (12, "time.sleep")."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node.lineno, ast.unparse(node.func)


def function_length(path: Path, text: str) -> Iterator[str]:
    """Functions stay below 70 lines; their docstring is not counted."""
    for node in functions(ast.parse(text)):
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        if ast.get_docstring(node) is not None:
            lines -= (node.body[0].end_lineno or 0) - node.body[0].lineno + 1
        if lines >= FUNCTION_LINES_MAX:
            yield f"line {node.lineno}: {node.name} has {lines} lines, at most 69 are allowed"


def swallowed_error(path: Path, text: str) -> Iterator[str]:
    """An error is handled, or suppressed by name with contextlib.suppress; never just passed."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ExceptHandler) and all(isinstance(s, ast.Pass) for s in node.body):
            yield f"line {node.lineno}: an error is swallowed"


def banned_import(path: Path, text: str) -> Iterator[str]:
    """No pickle, and no import of a role by its folder's name."""
    banned = {"pickle", "cloudpickle", "dill", "marshal", "shelve", *ROLES}
    for node in ast.walk(ast.parse(text)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        for name in names:
            if name.partition(".")[0] in banned:
                yield f"line {node.lineno} imports {name}"


def banned_call(path: Path, text: str) -> Iterator[str]:
    """No call that pickles, and no sleep in a test, which waits on a condition instead."""
    pickling = {"torch.save", "torch.load"}
    banned = pickling | ({"time.sleep", "sleep"} if "tests" in path.parts else set())
    for line, name in called(ast.parse(text)):
        if name in banned:
            yield f"line {line} calls {name}"


def unfailing_test(path: Path, text: str) -> Iterator[str]:
    """A test asserts, expects an error, or calls a function of its module that does."""
    if not path.name.startswith("test_"):
        return
    tree = ast.parse(text)

    def checks(node: ast.AST) -> bool:
        return any(isinstance(n, ast.Assert) for n in ast.walk(node)) or any(
            name.startswith(("pytest.raises", "pytest.warns", "pytest.fail"))
            or name.split(".")[-1].startswith("assert_")
            for _, name in called(node)
        )

    checking = {node.name for node in functions(tree) if checks(node)}
    for node in functions(tree):
        reached = {node.name} | {name.split(".")[-1] for _, name in called(node)}
        if node.name.startswith("test_") and not reached & checking:
            yield f"line {node.lineno}: {node.name} cannot fail"


RULES: dict[Rule, set[str]] = {
    file_length: CODE,
    line_width: CODE,
    vague_name: TEXT,
    machine_path: TEXT,
    function_length: {".py"},
    swallowed_error: {".py"},
    banned_import: {".py", ".pyi"},
    banned_call: {".py"},
    unfailing_test: {".py"},
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_tree_keeps_the_rule(rule: Rule) -> None:
    found = [
        f"{path.relative_to(ROOT)}: {violation}"
        for path in files(RULES[rule])
        for violation in rule(path.relative_to(ROOT), path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join([str(rule.__doc__), *found])


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [
        (file_length, "a.py", "x\n" * 501),
        (file_length, "a.cc", "// This file is long because it can be.\n" + "x\n" * 800),
        (line_width, "a.cc", "x" * 101),
        (vague_name, "csrc/base/string_utils.h", ""),
        (vague_name, "embery/common/keys.py", ""),
        (machine_path, "README.md", "see /" + "home/someone/data"),
        (function_length, "a.py", "def f():\n" + "    x()\n" * 69),
        (swallowed_error, "a.py", "try:\n    f()\nexcept OSError:\n    pass\n"),
        (banned_import, "a.py", "import pickle"),
        (banned_import, "a.py", "from worker.trainer import Trainer"),
        (banned_call, "a.py", "torch.save(model, path)"),
        (banned_call, "tests/unit/test_a.py", "time.sleep(1)"),
        (unfailing_test, "tests/unit/test_a.py", "def test_a():\n    f()\n"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_rule_catches_a_violation(rule: Rule, path: str, text: str) -> None:
    assert list(rule(Path(path), text))


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [
        (file_length, "a.py", "# This file is long because it can be.\n" + "x\n" * 600),
        (machine_path, "a.md", "$HOME/work/data and https://example.org/home/page"),
        (function_length, "a.py", 'def f():\n    """A.' + "\n" * 90 + '"""\n    return 1\n'),
        (banned_import, "a.py", "from embery.worker.trainer import Trainer"),
        (banned_call, "worker/a.py", "time.sleep(1)"),
        (
            unfailing_test,
            "tests/unit/test_a.py",
            "def equal(a):\n    assert a\ndef test_a():\n    equal(1)\n",
        ),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_rule_lets_good_code_pass(rule: Rule, path: str, text: str) -> None:
    assert not list(rule(Path(path), text))


@pytest.mark.parametrize("role", ROLES)
def test_role_is_a_committed_symlink(role: str) -> None:
    link = ROOT / "embery" / role
    assert link.is_symlink()
    assert os.readlink(link) == f"../{role}"
    if (ROOT / ".git").exists():
        listed = subprocess.run(
            ["git", "ls-files", "-s", f"embery/{role}"],
            cwd=ROOT, check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        assert listed.startswith("120000 ")
