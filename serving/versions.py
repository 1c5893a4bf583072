"""Which version of a model is served: the newest whole one in a folder, or the one it names.

    models/ctr/bundle-00000007/
    models/ctr/bundle-00000008/      the newest is served,
    models/ctr/CURRENT               unless a file of one line names another: a rollback

PATH may also be one bundle, or a symbolic link to one. A version that cannot be opened is reported
and passed over: what is served stays. Versions are objects that never change, so a request that has
begun with one ends with it; the last of them frees it.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from embery.errors import CheckpointCorrupt, EmberyError, InvalidArgument
from embery.observability.logs import facts
from embery.serving.manifest import MANIFEST
from embery.serving.scorer import Scorer

log = logging.getLogger(__name__)

CURRENT = "CURRENT"
_NUMBER = re.compile(r"(\d+)$")
# A folder, and which manifest is in it: inode and time of change in nanoseconds.
_Identity: TypeAlias = tuple[Path, int, int]


@dataclass(frozen=True, slots=True)
class _Served:
    identity: _Identity
    scorer: Scorer


class Versions:
    """Opens versions and says which one is current. `current` is for any thread, `refresh` for one.

    Args:
        path: as above.
        load: opens the bundle in a folder; raises an `EmberyError` if it cannot.

    Raises:
        InvalidArgument, CheckpointCorrupt: there is no version that can be served.
    """

    def __init__(self, path: Path, load: Callable[[Path], Scorer]) -> None:
        self._path = path
        self._load = load
        self._refused: dict[Path, _Identity] = {}
        self.failures = 0
        self.switches = 0
        self.since_s = 0.0
        self._served: _Served | None = None
        self._switched = threading.Condition()
        problem = self._switch()
        if self._served is None:
            raise problem or InvalidArgument(
                f"{path}: expected a bundle, or a folder of bundles, as `embery export` writes them"
            )

    def current(self) -> Scorer:
        """Return the version that new requests get."""
        assert self._served is not None
        return self._served.scorer

    def wait_for(self, version: int, seconds: float) -> bool:
        """Wait until a version is current, so long at most; return whether it is."""
        with self._switched:
            return self._switched.wait_for(lambda: self.current().version == version, seconds)

    def refresh(self) -> None:
        """Look at the folder, and switch if there is another version to serve."""
        self._switch()

    def _switch(self) -> Exception | None:
        """Serve the first candidate that can be opened; return why the last one could not."""
        problem: Exception | None = None
        try:
            for identity in self._candidates():
                if self._served is not None and identity == self._served.identity:
                    return problem
                if self._refused.get(identity[0]) == identity:
                    continue
                problem = self._try(identity)
                if problem is None:
                    return None
        except OSError as error:
            # Someone changes the folder meanwhile; it is looked at again.
            problem = InvalidArgument(f"{error.filename}: {error.strerror}")
        except EmberyError as error:
            problem = error
        return problem

    def _try(self, identity: _Identity) -> Exception | None:
        """Serve a version; return what is wrong with it, if anything."""
        start_s = time.monotonic()
        try:
            scorer = self._load(identity[0])
        except Exception as error:
            # Of whatever kind: what is served stays.
            self.failures += 1
            self._refused[identity[0]] = identity
            log.warning("a version is not served: %s", error, extra=facts(path=identity[0]))
            return error
        with self._switched:
            self._served = _Served(identity, scorer)
            self.switches += 1
            self.since_s = time.time()
            self._switched.notify_all()
        seconds = round(time.monotonic() - start_s, 3)
        log.info(
            "serves a version",
            extra=facts(version=scorer.version, path=identity[0], seconds=seconds),
        )
        return None

    def _candidates(self) -> Iterator[_Identity]:
        """Yield what may be served, best first."""
        if (self._path / MANIFEST).exists():
            yield _identity_of(self._path.resolve())
            return
        named = self._path / CURRENT
        if named.exists():
            name = named.read_text(encoding="utf-8").strip()
            if name in ("", ".", "..") or "/" in name:
                text = f"{named}: expected the name of a folder beside it, got {name!r}"
                raise CheckpointCorrupt(text)
            yield _identity_of(self._path / name)
            return
        yield from map(_identity_of, numbered(self._path))


def numbered(path: Path) -> list[Path]:
    """Return the bundles in a folder, by the numbers that their names end with, highest first."""
    found = [
        (int(number[1]), folder)
        for folder in path.iterdir()
        if (number := _NUMBER.search(folder.name)) and (folder / MANIFEST).exists()
    ]
    return [folder for _, folder in sorted(found, reverse=True)]


def _identity_of(folder: Path) -> _Identity:
    about = (folder / MANIFEST).stat()
    return folder, about.st_ino, about.st_mtime_ns


class Watcher:
    """A thread that refreshes versions now and then, until `stop`."""

    def __init__(self, versions: Versions, interval_s: float) -> None:
        self._versions = versions
        self._interval_s = interval_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="embery-versions")

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """End; a version that is being opened is waited for."""
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(self._interval_s):
            try:
                self._versions.refresh()
            except Exception:
                log.exception("versions cannot be looked at; what is served stays")
