"""Constants of the checkpoint format; docs/formats/checkpoint.md is their meaning.

Nothing here may change without a new `VERSION`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

# The columns of rows, by name: each has one entry a row, `values` and `state` a second dimension.
Columns = Mapping[str, NDArray[Any]]
# JSON values, numpy arrays and bytes, nested in dicts, lists and tuples.
Tree = Any

FORMAT = "embery-checkpoint"
# Of row and tree files, and of the manifest of a full checkpoint.
VERSION = 1
# Of the manifest of a delta.
DELTA_VERSION = 2
# Deltas that may build on one full checkpoint, each on the one before it.
DELTAS_MAX = 7

SLOTS = 4096
SLOT_HASH = 1
GROUP_SLOTS = 256

MANIFEST = "manifest.json"
MANIFEST_BYTES_MAX = 64 << 20
STATE_FILE = "state.arrow"

# Schema metadata of the Arrow files.
META_CONTENT = b"embery.content"
META_VERSION = b"embery.version"
META_TABLE = b"embery.table"
META_SLOTS = b"embery.slots"
META_TREE = b"embery.tree"
CONTENT_ROWS = b"rows"
CONTENT_TREE = b"tree"

# Scalar columns of a row file; `values` and `state` follow them.
ROW_DTYPES: dict[str, np.dtype[Any]] = {
    "key": np.dtype(np.uint64),
    "count": np.dtype(np.uint32),
    "step": np.dtype(np.uint32),
    "time_s": np.dtype(np.uint32),
    "lsn": np.dtype(np.uint64),
}
# Of the state of a delta's table: keys whose rows its base may have, and that went since.
DELETED = "deleted_keys"
TOMBSTONES = "tombstones"
VALUES = "values"
STATE = "state"

_CHECKPOINT = re.compile(r"checkpoint-([0-9]{1,18})")
_PARTIAL = re.compile(r"\.checkpoint-[0-9]{8,18}\.partial")
_DATA_FILE = re.compile(r"(table-[0-9]+\.(slots-[0-9]+-[0-9]+|state)|state)\.arrow")


def checkpoint_folder(number: int) -> str:
    """Return the name of the folder of checkpoint `number`."""
    return f"checkpoint-{number:08}"


def partial_folder(number: int) -> str:
    """Return the name under which checkpoint `number` is written into a local folder."""
    return f".checkpoint-{number:08}.partial"


def number_of(folder: str) -> int | None:
    """Return the number of a checkpoint's folder, or None if the name is not one."""
    match = _CHECKPOINT.fullmatch(folder)
    return int(match[1]) if match else None


def is_partial(folder: str) -> bool:
    """Tell whether `folder` is a name under which a checkpoint is being, or was, written."""
    return _PARTIAL.fullmatch(folder) is not None


def rows_file(table: int, slot_begin: int, slot_end: int) -> str:
    """Return the name of the file of the rows of table number `table` in a range of slots."""
    return f"table-{table}.slots-{slot_begin}-{slot_end}.arrow"


def table_state_file(table: int) -> str:
    """Return the name of the file of what table number `table` holds beside its rows."""
    return f"table-{table}.state.arrow"


def is_data_file(name: str) -> bool:
    """Tell whether `name` is one that this format gives to its data files."""
    return _DATA_FILE.fullmatch(name) is not None
