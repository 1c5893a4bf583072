"""Makes a bundle of every new checkpoint: deltas, and a whole one now and then.

    follower = Follower("runs/7", "models/ctr", export_one)
    while not ended.wait(5.0):
        follower.step()

The folder of bundles is all that there is to remember, so a follower that was killed goes on where
it was. Bundles that are no longer needed are removed.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from embery import checkpoint as checkpoints
from embery.errors import CheckpointCorrupt, EmberyError
from embery.observability.logs import facts
from embery.serving.bundle import Bundle
from embery.serving.manifest import MANIFEST
from embery.serving.versions import CURRENT, numbered
from embery.validation import require_int, require_range

log = logging.getLogger(__name__)


class ExportOne(Protocol):
    """Exports a checkpoint, whole or as a delta of `base`."""

    def __call__(self, checkpoint: Path, dest: Path, base: Path | None) -> Bundle:
        """Return the bundle."""


@dataclass(frozen=True, slots=True)
class FollowOptions:
    """When to make what.

    Args:
        share_max: a delta of more than this share of its base's rows is the last one of it: the
            next bundle is whole.
        keep: how many of the newest bundles to keep, and their bases with them.
    """

    share_max: float = 0.25
    keep: int = 10

    def validate(self) -> None:
        """Raise `InvalidArgument` naming the first option that is wrong."""
        require_range("share_max", self.share_max, low=0)
        require_int("keep", self.keep, low=1, high=2**31 - 1)


class Follower:
    """Follows one folder of checkpoints into one folder of bundles. For one thread.

    Args:
        source: the folder that a training run saves to.
        dest: the folder that a server serves.
    """

    def __init__(
        self, source: Path, dest: Path, export_one: ExportOne, options: FollowOptions | None = None
    ) -> None:
        self._source, self._dest, self._export = source, dest, export_one
        self._options = FollowOptions() if options is None else options
        self._options.validate()

    def step(self) -> Bundle | None:
        """Make a bundle of the newest checkpoint, unless there is one; return it.

        A checkpoint that disappears meanwhile, as its run keeps only the last few, is passed over.

        Raises:
            EmberyError: as `embery.serving.export.export`; nothing was made.
        """
        newest = checkpoints.newest(str(self._source))
        if newest is None:
            return None
        number = checkpoints.open_unchecked(newest).number
        dest = self._dest / f"bundle-{number:08}"
        if dest.exists():
            return None
        base = self._base()
        try:
            made = self._export(Path(newest), dest, base)
        except CheckpointCorrupt:
            if checkpoints.newest(str(self._source)) == newest:
                raise
            return None
        kind = "whole" if made.manifest.base is None else "delta"
        log.info("made a bundle", extra=facts(path=dest, kind=kind, rows=_rows_of(made)))
        self._prune()
        return made

    def _base(self) -> Path | None:
        """Return the bundle that the next one is a delta of; None if that one shall be whole."""
        for newest in self._bundles():
            named = newest.manifest.base
            if named is None:
                return newest.path
            base = newest.base()
            assert base is not None
            if _rows_of(newest) > self._options.share_max * _rows_of(base):
                return None
            return base.path
        return None

    def _bundles(self) -> Iterator[Bundle]:
        """Yield the bundles that can be opened, newest first."""
        for folder in numbered(self._dest) if self._dest.exists() else ():
            try:
                yield Bundle.open(folder)
            except EmberyError as error:
                log.warning("a bundle is passed over: %s", error, extra=facts(path=folder))

    def _prune(self) -> None:
        """Remove bundles beyond those to keep, their bases and the one that CURRENT names."""
        kept: set[str] = set()
        named = self._dest / CURRENT
        if named.exists():
            kept.add(named.read_text(encoding="utf-8").strip())
        for i, bundle in enumerate(self._bundles()):
            if i < self._options.keep or bundle.path.name in kept:
                kept.add(bundle.path.name)
                if bundle.manifest.base is not None:
                    kept.add(bundle.manifest.base.folder)
        for folder in numbered(self._dest):
            if folder.name not in kept:
                # Without its manifest it is no bundle, so none is ever seen in part.
                (folder / MANIFEST).unlink()
                shutil.rmtree(folder)


def _rows_of(bundle: Bundle) -> int:
    return sum(table.rows for table in bundle.manifest.tables)
