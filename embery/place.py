"""Which of the workers of a run a process is, as the launcher tells it by its environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from embery.errors import InvalidArgument

RANK_VARIABLE = "EMBERY_RANK"
WORLD_SIZE_VARIABLE = "EMBERY_WORLD_SIZE"
# How often the launcher has started the run anew.
RESTARTS_VARIABLE = "EMBERY_RESTARTS"
# The network interface for samples; unset, the system's routes decide.
DATA_INTERFACE_VARIABLE = "EMBERY_DATA_INTERFACE"
# "1" where workers may come and go.
ELASTIC_VARIABLE = "EMBERY_ELASTIC"
WORKERS_MAX = 1024


@dataclass(frozen=True, slots=True)
class Place:
    """Which of the workers of a run a process is; the only one, unless it was launched."""

    rank: int = 0
    world_size: int = 1
    # Whether workers come and go: rank and size are then those to begin with.
    elastic: bool = False

    @staticmethod
    def of(environment: Mapping[str, str]) -> Place:
        """Return the place that `environment` gives.

        Raises:
            InvalidArgument: a variable is no number, out of its range, or alone.
        """
        given = [environment.get(name) for name in (RANK_VARIABLE, WORLD_SIZE_VARIABLE)]
        if given == [None, None]:
            return Place()
        rank, world_size = (int(v) if v is not None and v.isdecimal() else -1 for v in given)
        if not 0 <= rank < world_size <= WORKERS_MAX:
            raise InvalidArgument(
                f"{RANK_VARIABLE} and {WORLD_SIZE_VARIABLE} must be integers with 0 <= rank < size "
                f"<= {WORKERS_MAX}, got {given[0]!r} and {given[1]!r}; embery run sets both"
            )
        return Place(rank, world_size, elastic=environment.get(ELASTIC_VARIABLE) == "1")
