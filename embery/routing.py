"""Where a key belongs: its slot, 1 of 4096, the unit of ownership, ordering and saving."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from embery import _native
from embery.arrays import as_keys

SLOT_COUNT = 4096
# Slots that share a lock and a state of admission; what moves at once lies within them.
SLOTS_PER_GROUP = 64


def slots_of(table: str, keys: Any) -> NDArray[np.uint16]:
    """Return the slot of each key in the table of that name.

    Args:
        table: name of the table; it salts the mix.
        keys: uint64 or int64, shape (n,).

    Returns:
        uint16, shape (n,): the top 12 bits of MurmurHash3's finaliser of (key xor salt), where the
        salt is the low half of MurmurHash3 x64-128 of the name.
    """
    return _native.slots_of(table, as_keys(keys, "keys"))
