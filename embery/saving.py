"""How a store's tables are saved while they change: a cut, from which a checkpoint is written."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from embery import checkpoint
from embery.checkpoint import TableSource, WriteOptions

Progress = Callable[[int], None]

# So much of what rows were is kept while they are saved, or this share of all of them if that is
# more: whoever saves a large table needs longer, and meets more rows that change meanwhile.
CUT_BYTES_MIN = 256 << 20
CUT_BYTES_SHARE = 4


class Holding(Protocol):
    """What a server says that keeps slots where they are."""

    routing_version: int


Held = TypeVar("Held", bound=Holding)


def cut_bytes_max(rows_bytes: int) -> int:
    """Return how many bytes a store with so many bytes of rows may keep aside for a cut."""
    return max(CUT_BYTES_MIN, rows_bytes // CUT_BYTES_SHARE)


@dataclass(frozen=True, slots=True)
class Cut:
    """The tables of a store as of one moment.

    Args:
        sources: the tables.
        seal: of the checkpoint that they were last saved in or restored from; None if that is not
            known, or not the same for all of them.
        note: tells the store of the seal of the next one.
    """

    sources: list[TableSource]
    seal: str | None
    note: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class SaveRequest:
    """What `Store.checkpoint` was asked for."""

    dest: str | os.PathLike[str]
    delta: bool
    state: Mapping[str, Any] | None
    keep: int | None
    progress: Progress | None


class Saver(ABC):
    """The methods of a store that save, over the cut that it makes.

    One checkpoint of a handle is under way at a time; the next one waits.
    """

    def __init__(self) -> None:
        # Let go by the thread that saved, which may be another than the one that began.
        self._saving = threading.Lock()
        self._saver: ThreadPoolExecutor | None = None

    @abstractmethod
    def _cut(self) -> AbstractContextManager[Cut]:
        """Make a cut, of which the tables can be saved once until the context ends."""

    def checkpoint(
        self,
        dest: str | os.PathLike[str],
        *,
        delta: bool = False,
        state: Mapping[str, Any] | None = None,
        keep: int | None = None,
        progress: Progress | None = None,
    ) -> str:
        """See `Store.checkpoint`."""
        return self._begin_checkpoint(SaveRequest(dest, delta, state, keep, progress))()

    def checkpoint_async(
        self,
        dest: str | os.PathLike[str],
        *,
        delta: bool = False,
        state: Mapping[str, Any] | None = None,
        keep: int | None = None,
    ) -> Future[str]:
        """See `Store.checkpoint_async`."""
        save = self._begin_checkpoint(SaveRequest(dest, delta, deepcopy(state), keep, None))
        if self._saver is None:
            self._saver = ThreadPoolExecutor(1, thread_name_prefix="embery-save")
        return self._saver.submit(save)

    def _begin_checkpoint(self, request: SaveRequest) -> Callable[[], str]:
        """Make a cut; return what saves it, to be called once."""
        with ExitStack() as stack:
            stack.enter_context(self._saving)
            cut = stack.enter_context(self._cut())
            held = stack.pop_all()

        def save() -> str:
            with held:
                return _write(cut, request)

        return save

    def _close_saver(self) -> None:
        """Wait for the checkpoint under way."""
        if self._saver is not None:
            self._saver.shutdown(wait=True)


def _write(cut: Cut, request: SaveRequest) -> str:
    base = None
    if request.delta:
        states = {s.definition["name"]: s.export_state(None) for s in cut.sources}
        base = checkpoint.base_for(request.dest, cut.seal, states)
    saved = checkpoint.write(
        request.dest,
        cut.sources,
        state=request.state,
        keep=request.keep,
        base=base,
        options=WriteOptions(progress=request.progress),
    )
    cut.note(saved.seal)
    return saved.path
