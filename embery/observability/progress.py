"""Progress of long work, shown only to a person who is looking.

with progress("verifying", total=size, unit="B") as advance:
    checkpoint.verify(progress=advance)
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

Advance = Callable[[int], None]


@contextmanager
def progress(
    label: str, *, total: int, unit: str, stream: TextIO | None = None
) -> Iterator[Advance]:
    """Show a bar while the context lasts; yield the function that moves it.

    The bar appears if standard output is a terminal and tqdm (extra `train`) is installed;
    otherwise the work is silent. It is drawn on `stream` (None: stderr), and gone when the work
    ends.

    Args:
        label: what is being done.
        total: how many units make the whole.
        unit: "B" is shown with k, M, G; anything else as it is.
        stream: where to draw.

    Yields:
        a function that adds a number of units; it may be called from any thread.
    """
    if not sys.stdout.isatty():
        yield _nothing
        return
    try:
        from tqdm import tqdm  # noqa: PLC0415  optional, and slow to import
    except ImportError:
        yield _nothing
        return
    lock = threading.Lock()
    with tqdm(
        desc=label,
        total=total,
        unit=unit,
        unit_scale=unit == "B",
        file=stream or sys.stderr,
        leave=False,
        dynamic_ncols=True,
    ) as bar:

        def advance(count: int) -> None:
            with lock:
                bar.update(count)

        yield advance


def _nothing(_count: int) -> None:
    """Show nothing."""
