"""Every Python snippet of the README and the docs runs as it stands.

The snippets of one page run in order in one process, as a reader would type them; a snippet that
shows a shape rather than a program is fenced as `python no-run`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```python[ ]*(?P<mark>[\w-]*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


def runnable(page: Path) -> str:
    """Return the page's snippets as one program whose line numbers are those of the page."""
    text = page.read_text(encoding="utf-8")
    program = ""
    for fence in FENCE.finditer(text):
        if fence["mark"] != "no-run":
            line = text.count("\n", 0, fence.start("code"))
            program += "\n" * (line - program.count("\n")) + fence["code"]
    return program


PAGES = [
    page
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    if runnable(page).strip()
]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_snippets_of_the_page_run(page: Path, tmp_path: Path) -> None:
    program = tmp_path / f"{page.stem}.py"
    program.write_text(runnable(page), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(program)],
        cwd=tmp_path, check=False, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, f"{page.name}\n{done.stdout}\n{done.stderr}"


def test_readme_shows_a_program_that_runs() -> None:
    assert ROOT / "README.md" in PAGES


def test_links_between_the_pages_lead_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    broken = [
        f"{page.relative_to(ROOT)}: {link}"
        for page in pages
        for link in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
        if "://" not in link and not (page.parent / link).exists()
    ]
    assert not broken, "\n".join(broken)
