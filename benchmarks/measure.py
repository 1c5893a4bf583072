"""What a benchmark records: a JSON line a figure, with processor time and load beside it."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def emit(peer: str, metric: str, value: float, unit: str, workload: str, **extra: Any) -> None:
    """Print one figure as a JSON line."""
    figure = {
        "peer": peer,
        "metric": metric,
        "value": round(value, 2),
        "unit": unit,
        "workload": workload,
        **extra,
        "load1": round(os.getloadavg()[0], 2),
    }
    print(json.dumps(figure), flush=True)


def emit_rate(
    peer: str,
    metric: str,
    n: int,
    step_s: Sequence[float],
    workload: str,
    *,
    unit: str = "rows/s",
    **extra: Any,
) -> None:
    """Print the rate of `n` things a step: `value` is the median step's, `best` the fastest's."""
    best = round(n / min(step_s), 1)
    median = float(np.median(step_s))
    emit(peer, metric, n / median, unit, workload, best=best, steps=len(step_s), **extra)


def timed_steps(
    step: Callable[[int], object], *, steps: int, warm: int = 5
) -> tuple[list[float], float]:
    """Call `step(0)`, `step(1)`, ...; return seconds of those after the warm ones, CPU s a step."""
    step_s, cpu_before_s = [], 0.0
    for i in range(warm + steps):
        if i == warm:
            cpu_before_s = cpu_s()
        start = time.perf_counter()
        step(i)
        if i >= warm:
            step_s.append(time.perf_counter() - start)
    return step_s, (cpu_s() - cpu_before_s) / steps


def cpu_s() -> float:
    """Return the user and system seconds this process has used."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def rss_bytes() -> int:
    """Return the resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def log(message: str) -> None:
    """Tell the person who waits; standard output carries only figures."""
    print(message, file=sys.stderr, flush=True)
