"""What the launcher and a worker tell each other, beside the worker's place (`embery.place`).

`MASTER_ADDR` and `MASTER_PORT` are torch's own: where rank 0 listens for the other workers.
"""

from __future__ import annotations

from collections.abc import Mapping

# A worker that lost another ends with this on its log: it is not the one that failed first.
PEER_LOST = "another worker of this run has gone"

# A worker that is one too many says so, and ends.
DISMISSED = "dismissed: "

# How wide a line of the worker may be, where its standard error comes to a terminal in the end.
COLUMNS_VARIABLE = "EMBERY_COLUMNS"


def columns_of(environment: Mapping[str, str]) -> int | None:
    """Return the columns that the launcher's terminal has for a worker; None without one."""
    given = environment.get(COLUMNS_VARIABLE, "")
    return int(given) if given.isdecimal() else None
