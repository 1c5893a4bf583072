"""Threads that save while others train."""

from __future__ import annotations

import os
import sys
import threading

# Of a thread with the usual priority it gets a tenth, where both want the processor.
NICENESS = 10
THREADS_MAX = 4


def save_threads() -> int:
    """Return how many threads save: half of the processors that this process may use, at most 4."""
    return max(1, min(THREADS_MAX, len(os.sched_getaffinity(0)) // 2))


def give_way() -> None:
    """Let other threads have the processor before the one that calls this, for good."""
    if sys.platform == "linux":  # Elsewhere a process has one priority.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
