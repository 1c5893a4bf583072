"""A checkpoint written by the first version of the format is read by every later one.

`tests/golden/checkpoint-v1` was written once by `write_golden` below and is never written again:
if this test fails, the reader is wrong, not the files. A new version of the format gets a folder of
its own beside it.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embery as em
from embery import checkpoint
from embery.routing import slots_of
from embery.rows import decode_values

GOLDEN = Path(__file__).parents[2] / "golden" / "checkpoint-v1"

ITEM = em.Table(
    "item",
    dim=2,
    optimizer=em.optim.RowwiseAdagrad(lr=0.5, eps=1e-8),
    initializer=em.init.Uniform(0.25, seed=7),
    admission=em.MinCount(3),
    eviction=em.TTL(days=30),
)
USER = em.Table(
    "user é",
    dim=3,
    optimizer=em.optim.SGD(lr=0.125),
    initializer=em.init.Zeros(),
    dtype="int8",
    nonfinite="raise",
)
KEYS = np.array([0, 1, 1 << 56, (1 << 64) - 1], np.uint64)
ITEM_ROWS: dict[str, Any] = {
    "key": KEYS,
    "count": np.array([1, 2, 3, (1 << 32) - 1], np.uint32),
    "step": np.array([10, 20, 30, 40], np.uint32),
    "time_s": np.array([1_700_000_000, 1_700_000_001, 0, 5], np.uint32),
    "lsn": np.array([1, 2, 1, (1 << 63) + 1], np.uint64),
    "values": np.array([[1, -1], [0.5, -0.0], [np.inf, 1e-45], [3, 4]], np.float32).view(np.uint8),
    "state": np.array([[0], [0.25], [1e30], [2]], np.float32),
}
USER_ROWS: dict[str, Any] = {
    "key": KEYS[3:],
    "count": np.array([9], np.uint32),
    "step": np.array([8], np.uint32),
    "time_s": np.array([7], np.uint32),
    "lsn": np.array([6], np.uint64),
    "values": np.array([[127, 255, 2, 0, 0, 0, 0, 63]], np.uint8),  # 127, -1, 2; scale 0.5
    "state": np.empty((1, 0), np.float32),
}
ITEM_STATE = {
    "step": 41,
    "counters": {"admitted": 4, "rejected": 2},
    "slot_lsns": np.arange(4096, dtype=np.uint64) % np.uint64(7),
    "candidates": {"key": KEYS[:2], "count": np.array([1, 2], np.uint16)},
}
STATE = {
    "epoch": 3,
    "lr": 0.1,
    "best": float("-inf"),
    "name": "run é",
    "nothing": None,
    "flag": True,
    "random": 2**127 + 1,
    "betas": (0.9, 0.999),
    "dense": {0: np.arange(6, dtype=np.float32).reshape(2, 3), 1: [np.float64(0.5), b"\0\xff"]},
    "half": np.array(1.5, np.float16),
    "big_endian": np.array([1, 2], ">i4"),
    "$odd": np.zeros((0, 4), np.complex64),
}


class _Table:
    def __init__(self, table: em.Table, rows: dict[str, Any], state: Any) -> None:
        self.definition = table.to_dict()
        self.value_bytes = rows["values"].shape[1]
        self.state_floats = rows["state"].shape[1]
        self.row_count = len(rows["key"])
        self._rows = rows
        self._state = state

    def export_rows(self, slot_begin: int, slot_end: int, since: Any) -> dict[str, Any]:
        slots = slots_of(self.definition["name"], self._rows["key"])
        wanted = (slots >= slot_begin) & (slots < slot_end)
        return {name: column[wanted] for name, column in self._rows.items()}

    def export_state(self, since: Any) -> Any:
        return self._state


def write_golden(dest: Path) -> checkpoint.Checkpoint:
    tables = [_Table(ITEM, ITEM_ROWS, ITEM_STATE), _Table(USER, USER_ROWS, {})]
    options = checkpoint.WriteOptions(clock=lambda: 1_700_000_000.0)
    return checkpoint.write(dest, tables, state=STATE, options=options)


def assert_same_rows(found: checkpoint.Checkpoint, table: str, expected: dict[str, Any]) -> None:
    parts = list(found.rows(table))
    order = np.argsort(np.concatenate([part["key"] for part in parts]))
    for name, column in expected.items():
        got = np.concatenate([part[name] for part in parts])[order]
        assert (got.dtype, got.shape) == (column.dtype, column.shape)
        assert got.tobytes() == column.tobytes(), name


def assert_same_tree(got: Any, expected: Any) -> None:
    assert type(got) is type(expected)
    if isinstance(expected, dict):
        assert list(got) == list(expected)
        for key in expected:
            assert_same_tree(got[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert len(got) == len(expected)
        for one, other in zip(got, expected, strict=True):
            assert_same_tree(one, other)
    elif isinstance(expected, np.ndarray | np.generic):
        assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
        assert got.tobytes() == expected.tobytes()
    elif isinstance(expected, float):
        assert struct.pack(">d", got) == struct.pack(">d", expected)
    else:
        assert got == expected


@pytest.mark.parametrize("source", ["committed", "written now"])
def test_the_golden_checkpoint_reads_as_it_was_written(tmp_path: Path, source: str) -> None:
    if source == "written now":
        write_golden(tmp_path)
    found = checkpoint.open(GOLDEN if source == "committed" else tmp_path)
    assert found.number == 1
    assert found.manifest.kind == "full"
    assert found.manifest.base is None
    assert found.manifest.created_at_s == 1_700_000_000
    assert {name: entry.rows for name, entry in found.tables.items()} == {"item": 4, "user é": 1}
    assert found.tables["item"].definition == ITEM.to_dict()
    assert found.tables["user é"].definition == USER.to_dict()
    assert_same_rows(found, "item", ITEM_ROWS)
    assert_same_rows(found, "user é", USER_ROWS)
    assert_same_tree(found.table_state("item"), ITEM_STATE)
    assert_same_tree(found.state, STATE)


def test_stored_values_decode_as_the_format_says() -> None:
    found = checkpoint.open(GOLDEN)
    (rows,) = found.rows("user é")
    values = decode_values("int8", 3, rows["values"])
    np.testing.assert_array_equal(values, np.array([[63.5, -0.5, 1.0]], np.float32))
