"""`embery doctor`: what this machine offers Embery, and what is missing."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from embery import __version__
from embery.cli.command import add_json_argument, print_json

EXAMPLE = "embery doctor --json"
FREE_DISK_LOW_BYTES = 10 << 30
_SIGNS = {"ok": "ok  ", "note": "note", "failed": "FAIL"}


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found: "ok", "note" (works, with less) or "failed" (Embery will not run)."""

    name: str
    status: Literal["ok", "note", "failed"]
    found: str
    advice: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_json_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print all findings; fail if one of them keeps Embery from running."""
    findings = [check() for check in CHECKS]
    if arguments.json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            advice = f"  ({finding.advice})" if finding.advice else ""
            print(f"{_SIGNS[finding.status]}  {finding.name:<12}  {finding.found}{advice}")
    return int(any(finding.status == "failed" for finding in findings))


def _versions() -> Finding:
    packages = []
    for name in ("numpy", "pyarrow"):
        try:
            packages.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            return Finding("versions", "failed", f"{name} is missing", f"pip install {name}")
    python = f"Python {platform.python_version()}"
    return Finding("versions", "ok", ", ".join([f"embery {__version__}", python, *packages]))


def _system() -> Finding:
    return Finding("system", "ok", f"{platform.system()} {platform.release()} {platform.machine()}")


def _processor() -> Finding:
    usable, present = len(os.sched_getaffinity(0)), os.cpu_count()
    found = f"{_field('/proc/cpuinfo', 'model name') or 'unknown'}, {usable} of {present} usable"
    return Finding("processor", "ok", found)


def _native() -> Finding:
    try:
        from embery import _native as native  # noqa: PLC0415  the check is whether it loads
    except ImportError as error:
        return Finding("native code", "failed", str(error), "build it: pip install .")
    targets = native.simd_targets()
    if len(targets) > 1:
        return Finding("native code", "ok", f"SIMD targets: {', '.join(targets)}")
    return Finding("native code", "note", f"SIMD targets: {', '.join(targets)}", "no AVX2: slower")


def _memory() -> Finding:
    total, available = (_field("/proc/meminfo", name) for name in ("MemTotal", "MemAvailable"))
    if total is None or available is None:
        return Finding("memory", "note", "unknown: /proc/meminfo cannot be read")
    return Finding("memory", "ok", f"{_gib(available)} available of {_gib(total)}")


def _huge_pages() -> Finding:
    try:
        text = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    except OSError:
        return Finding("huge pages", "note", "this kernel has none", "large tables are slower")
    mode = text.partition("[")[2].partition("]")[0]
    if mode == "never":
        return Finding(
            "huge pages",
            "note",
            "transparent huge pages: never",
            "large tables are faster with: echo madvise > "
            "/sys/kernel/mm/transparent_hugepage/enabled",
        )
    return Finding("huge pages", "ok", f"transparent huge pages: {mode}")


def _torch() -> Finding:
    try:
        import torch  # noqa: PLC0415  slow, and not needed by a server
    except ImportError:
        return Finding(
            "torch", "note", "not installed", "training needs it: pip install 'embery[train]'"
        )
    cuda = f"CUDA devices: {torch.cuda.device_count()}" if torch.cuda.is_available() else "no CUDA"
    return Finding("torch", "ok", f"torch {torch.__version__}, {cuda}")


def _disk() -> Finding:
    usage = shutil.disk_usage(".")
    found = f"{usage.free / 2**30:.1f} GiB free of {usage.total / 2**30:.1f} GiB in {os.getcwd()}"
    if not os.access(".", os.W_OK):
        return Finding("disk", "note", found, "not writable: save checkpoints elsewhere")
    if usage.free < FREE_DISK_LOW_BYTES:
        return Finding("disk", "note", found, "little room for checkpoints")
    return Finding("disk", "ok", found)


CHECKS: tuple[Callable[[], Finding], ...] = (
    _versions,
    _system,
    _processor,
    _native,
    _memory,
    _huge_pages,
    _torch,
    _disk,
)


def _field(file: str, name: str) -> str | None:
    """Return the value of the first line "name : value" of a file under /proc."""
    if sys.platform != "linux":
        return None
    for line in Path(file).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None


def _gib(kilobytes: str) -> str:
    return f"{int(kilobytes.removesuffix(' kB')) / 2**20:.1f} GiB"
