"""How far the rows that a batch reads may lag behind the pushes of the batches before it.

The *staleness* of a batch is the number of earlier batches whose push was not applied when its rows
were read. On the embedded store, with its one worker, the dense part is exact in every mode.
"""

from __future__ import annotations

from dataclasses import dataclass

from embery.validation import require_int

STALENESS_MAX = 65_536


@dataclass(frozen=True, slots=True)
class Mode:
    """Base of the modes; use one of the subclasses."""

    def validate(self) -> None:
        """Raise `InvalidArgument` if a parameter is out of its range."""

    @property
    def staleness_max(self) -> int:
        """Return the bound of the staleness; 0 is exact."""
        return 0


@dataclass(frozen=True, slots=True)
class Sync(Mode):
    """Staleness 0: the same bits with and without look-ahead, whatever the threads."""


@dataclass(frozen=True, slots=True)
class Hybrid(Mode):
    """Dense parameters synchronous; rows at most `staleness` pushes behind.

    Rows are read ahead and pushes applied in the background. The idea is Persia's (Lian et al., KDD
    2022), whose staleness of the sparse part is bounded in the same way.
    """

    staleness: int = 4

    def __post_init__(self) -> None:
        self.validate()

    def validate(self) -> None:
        """Raise `InvalidArgument` unless 1 <= staleness <= 65536."""
        require_int(f"{type(self).__name__}.staleness", self.staleness, low=1, high=STALENESS_MAX)

    @property
    def staleness_max(self) -> int:
        """Return the bound of the staleness."""
        return self.staleness


@dataclass(frozen=True, slots=True)
class Async(Hybrid):
    """Rows at most `staleness` pushes behind, and workers that do not wait for each other.

    With one worker, as on the embedded store, it is `Hybrid` with a wider bound. With several a
    worker begins a batch while the slowest is at most `staleness` batches behind, and the servers
    take the steps of the dense optimizer (docs/guide/cluster.md).
    """

    staleness: int = 16
