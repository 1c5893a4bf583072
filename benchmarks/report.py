"""Turns the figures of a comparison into a page of tables."""

from __future__ import annotations

import hashlib
import platform
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.cases import Case, Setting

Figure = dict[str, Any]
# A contender whose threads wait for each other loses far more than the share that others take, so
# beyond this a comparison says nothing, whichever way it came out.
OTHERS_SHARE_MAX = 0.05
ROOT = Path(__file__).resolve().parent.parent
CPU_FIELDS = ("cpu_us_per_row", "cpu_us_per_sample")


def report(results: Iterable[tuple[Case, list[Figure]]], setting: Setting, *, rounds: int) -> str:
    """Return a Markdown page: the machine, then each case's figures and targets."""
    how = f"- {rounds} rounds, {setting.steps} steps a run, {setting.threads} threads"
    lines = ["# Comparison", "", *machine(), how]
    for case, figures in results:
        lines += ["", f"## {case.title}", "", *figure_table(figures)]
        if case.targets:
            lines += ["", *target_table(case, figures)]
    return "\n".join(lines) + "\n"


def machine() -> list[str]:
    """Return what the figures were measured on, a list item each."""
    cpu = [
        x.split(":")[1].strip()
        for x in Path("/proc/cpuinfo").read_text().splitlines()
        if x.startswith("model name")
    ]
    memory_kib = int(Path("/proc/meminfo").read_text().split()[1])
    return [
        f"- {time.strftime('%Y-%m-%d %H:%M')}, commit {commit()}, {native_module()}",
        f"- {len(cpu)} x {cpu[0]}, {memory_kib / 2**20:.0f} GiB, {platform.system()} "
        f"{platform.release()}, Python {platform.python_version()}",
    ]


def commit() -> str:
    """Return the commit that is checked out, marked where files differ from it."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout.strip() or "unknown"


def native_module() -> str:
    """Return which build of the native module the repository holds, and whether it is stale."""
    builds = sorted((ROOT / "embery").glob("_native*.so"))
    if not builds:
        return "no native module built in place"
    digest = hashlib.sha256(builds[0].read_bytes()).hexdigest()[:12]
    built_s = builds[0].stat().st_mtime
    sources = [p for p in (ROOT / "csrc").rglob("*.[ch]*") if not p.stem.endswith("_test")]
    stale = any(source.stat().st_mtime > built_s for source in sources)
    return f"native module {digest}" + (", **older than its sources**" if stale else "")


def figure_table(figures: Sequence[Figure]) -> list[str]:
    """Return the medians and extremes over the rounds, a row a contender and metric."""
    groups: dict[tuple[str, str], list[Figure]] = defaultdict(list)
    for figure in figures:
        groups[figure["contender"], figure["metric"]].append(figure)
    lines = [
        "| contender | metric | median | min | max | best step | CPU us each | load | others |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for (contender, metric), group in groups.items():
        values = [figure["value"] for figure in group]
        best = [figure["best"] for figure in group if "best" in figure]
        cpu = [figure[field] for figure in group for field in CPU_FIELDS if field in figure]
        others = max(map(others_share, group))
        cells = [
            contender,
            metric,
            *map(amount, (median(values), min(values), max(values))),
            amount(max(best)) if best else "",
            f"{median(cpu):.3g}" if cpu else "",
            f"{median(figure['load1'] for figure in group):.1f}",
            f"{others:.0%}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def target_table(case: Case, figures: Sequence[Figure]) -> list[str]:
    """Return how each target of a case came out; undecided where the machine was not quiet."""
    others = max(map(others_share, figures))
    quiet = others <= OTHERS_SHARE_MAX
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    for figure in figures:
        values[figure["contender"], figure["metric"]].append(figure["value"])
    lines = [
        "| target | found (over the rounds) | wanted | met |",
        "| --- | --- | --- | --- |",
    ]
    for target in case.targets:
        verdict = target.judge(values)
        met = ("yes" if verdict.met else "**no**") if quiet else f"undecided: others {others:.0%}"
        lines.append(f"| {verdict.what} | {verdict.found} | {verdict.wanted} | {met} |")
    return lines


def others_share(figure: Figure) -> float:
    """Return the share of all processors that others took during the run of a figure."""
    return float(figure["foreign_share"] + figure["stolen_share"])


def amount(value: float) -> str:
    """Return a figure with its magnitude: 13.2 M, 57.1 k, 31.5."""
    for size, suffix in ((1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:.2f}{suffix}"
    return f"{value:.1f}"
