"""House rules of the C++ tree that neither the compilers nor clang-tidy check."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CSRC = ROOT / "csrc"

# A folder may include itself and what stands here; docs/design/embedded.md draws the same picture.
LAYERS: dict[str, set[str]] = {
    "base": set(),
    "optim": {"base"},
    "batch": {"base"},
    "table": {"base", "optim"},
    "serving": {"base", "optim", "batch"},
    "wire": {"base", "optim"},
    "transport": {"base", "wire"},
    "server": {"base", "optim", "table", "wire", "transport"},
    "client": {"base", "optim", "batch", "wire", "transport"},
    "bind": {
        "base",
        "optim",
        "batch",
        "table",
        "serving",
        "wire",
        "transport",
        "server",
        "client",
    },
}

Rule = Callable[[Path, str], Iterator[str]]


def without_comments(text: str) -> str:
    """Blank out comments and string literals; the lines stay where they are."""
    pattern = r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"'
    return re.sub(pattern, lambda m: "\n" * m[0].count("\n"), text, flags=re.DOTALL)


def is_test(path: Path) -> bool:
    """Tell whether a file is a test, a fuzzer, a benchmark, or what tests are made of."""
    return path.stem.endswith(("_test", "_fuzz", "_bench", "testing"))


def header_comment(path: Path, text: str) -> Iterator[str]:
    """A header opens with what it is and says whether it is thread-safe."""
    if path.suffix == ".h":
        opening = re.match(r"(?://[^\n]*\n)*", text)
        if opening is None or "Thread-safety:" not in opening[0]:
            yield 'its opening comment has no "Thread-safety:"'
        if "#pragma once" not in text:
            yield "it has no #pragma once"


def include_layer(path: Path, text: str) -> Iterator[str]:
    """Includes point down the layers; only bind sees Python."""
    layer = path.parts[0]
    if layer not in LAYERS:
        yield f"the folder {layer} has no place among the layers"
        return
    for line in text.splitlines():
        if own := re.match(r'\s*#\s*include\s+"([^"]+)"', line):
            folder = own[1].partition("/")[0]
            if folder != layer and folder not in LAYERS[layer]:
                yield f"{layer} may not include {own[1]}"
        elif re.match(r"\s*#\s*include\s+<(pybind11/|Python\.h)", line) and layer != "bind":
            yield f"only bind sees Python: {line.strip()}"


def memory_order(path: Path, text: str) -> Iterator[str]:
    """Every memory order that is not the default has its reason beside it."""
    lines = text.splitlines()
    for index, line in enumerate(lines):
        weak = re.search(r"memory_order(_|::)(relaxed|acquire|release|acq_rel|consume)", line)
        if weak and not any("//" in near for near in lines[max(0, index - 4) : index + 1]):
            yield f"line {index + 1}: {weak[0]} has no reason beside it"


def core_exit(path: Path, text: str) -> Iterator[str]:
    """The core neither throws nor ends the process: it returns a Status."""
    if path.parts[0] == "bind" or is_test(path):
        return
    for number, line in enumerate(without_comments(text).splitlines(), 1):
        if found := re.search(r"\bthrow\b|\b(?:exit|abort|terminate|quick_exit)\s*\(", line):
            yield f"line {number}: {found[0].rstrip('(')} in the core"


def bool_parameter(path: Path, text: str) -> Iterator[str]:
    """A parameter that chooses is an enum: `Run(true)` says nothing where it is called."""
    if path.suffix == ".h" and not is_test(path):
        for found in re.finditer(r"[(,]\s*bool\s+(\w+)\s*[,)=]", without_comments(text)):
            number = text.count("\n", 0, found.start()) + 1
            yield f"near line {number}: parameter {found[1]} is a bool"


RULES: tuple[Rule, ...] = (header_comment, include_layer, memory_order, core_exit, bool_parameter)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_tree_keeps_the_rule(rule: Rule) -> None:
    sources = sorted(p for p in CSRC.rglob("*") if p.suffix in {".h", ".cc"})
    assert sources
    found = [
        f"csrc/{path.relative_to(CSRC)}: {violation}"
        for path in sources
        for violation in rule(path.relative_to(CSRC), path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join([str(rule.__doc__), *found])


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [
        (header_comment, "base/a.h", "#pragma once\n// Thread-safety: none.\n"),
        (header_comment, "base/a.h", "// A thing. Thread-safety: none.\n"),
        (include_layer, "base/a.h", '#include "table/index.h"'),
        (include_layer, "table/a.cc", "#include <pybind11/pybind11.h>"),
        (include_layer, "extras/a.cc", ""),
        (memory_order, "base/a.cc", "x.load(std::memory_order_relaxed);"),
        (core_exit, "table/a.cc", "if (broken) std::abort();"),
        (core_exit, "table/a.cc", "throw std::bad_alloc();"),
        (bool_parameter, "table/a.h", "void Pull(int n, bool train);"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_rule_catches_a_violation(rule: Rule, path: str, text: str) -> None:
    assert list(rule(Path(path), text))


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [
        (header_comment, "base/a.h", "// A thing.\n//\n// Thread-safety: none.\n#pragma once\n"),
        (include_layer, "table/a.cc", '#include "optim/kernels.h"\n#include <vector>'),
        (memory_order, "base/a.cc", "// A count.\nx.fetch_add(1, std::memory_order_relaxed);"),
        (core_exit, "table/a.cc", '// We abort() nothing.\nSay("throw");'),
        (bool_parameter, "table/a.h", "bool empty() const;\nexplicit operator bool() const;"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_rule_lets_good_code_pass(rule: Rule, path: str, text: str) -> None:
    assert not list(rule(Path(path), text))
