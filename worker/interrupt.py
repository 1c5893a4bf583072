"""Ctrl-C that waits for the end of a step, so that what follows it is whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Interrupts:
    """Holds back SIGINT while a step is under way.

    Use as a context manager, in the main thread; in any other, where Python delivers no signals, it
    does nothing. A second Ctrl-C during a step is not held back: it breaks into the step, which
    `broke_in` tells, and what the step was to change is then half changed.
    """

    def __init__(self) -> None:
        self.broke_in = False
        self._held_back = False
        self._holding = False
        self._previous: Any = None
        self._installed = False

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._on_signal)
            self._installed = True
        return self

    def __exit__(self, *_: object) -> None:
        if self._installed:
            # None: the handler before was not Python's, and cannot be set from here.
            signal.signal(signal.SIGINT, self._previous or signal.default_int_handler)
            self._installed = False

    @property
    def pending(self) -> bool:
        """Return whether a Ctrl-C is being held back."""
        return self._held_back

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Raise a `KeyboardInterrupt` that comes inside the context at its end."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
        if self._held_back:
            self._held_back = False
            raise KeyboardInterrupt

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self._holding and not self._held_back:
            self._held_back = True
            return
        self.broke_in = self._holding
        raise KeyboardInterrupt
