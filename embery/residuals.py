"""Residuals of gradients that travel in few bits, on their way from a handle to its next ones.

What rounding took from a key's last gradient is owed to its next (csrc/client/residuals.h). A
checkpoint that left it out would not be where training was; so handles give their residuals, a
trainer saves those of all workers, and hands them out again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embery.observability.logs import facts

log = logging.getLogger(__name__)

# Table, keys (n,), residuals (n, dim), how many of them may be dropped first.
Take = Callable[[str, NDArray[np.uint64], NDArray[np.float32], int], bool]


def hand_over(parts: Sequence[Mapping[str, Any]], take: Take) -> None:
    """Give `take` the residuals of all `parts`, table by table; log those that it refuses.

    Args:
        parts: each as `Store.residuals` returned it.
        take: returns whether the table keeps residuals. A key that several parts have comes as
            often; what may be dropped first comes first.
    """
    for table in sorted({name for part in parts for name in part}):
        found = [part[table] for part in parts if table in part]
        pieces = [(each, slice(None, each["older"])) for each in found]
        pieces += [(each, slice(each["older"], None)) for each in found]
        keys = np.concatenate([each["keys"][piece] for each, piece in pieces])
        rows = np.concatenate([each["rows"][piece] for each, piece in pieces])
        if not take(table, keys, rows, sum(each["older"] for each in found)):
            log.warning(
                "what rounding took from gradients is lost: the table's wire has no error feedback "
                "here",
                extra=facts(table=table, rows=len(keys)),
            )
