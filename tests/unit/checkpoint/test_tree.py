"""Trees come back as they were: values, types, bits."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import embery as em
from embery.checkpoint import tree


def same(a: Any, b: Any) -> bool:
    """Tell whether two trees are equal in types, order and bits."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray | np.generic):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, float):
        return struct.pack(">d", a) == struct.pack(">d", b)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    return bool(a == b)


def round_trip(value: Any) -> Any:
    """Pass a tree through an Arrow file in memory."""
    text, arrays = tree.encode(value)
    schema = tree.schema(text)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        for batch in tree.batches(arrays, schema):
            writer.write_batch(batch)
    with pa.ipc.open_file(sink.getvalue()) as reader:
        return tree.read(reader)


dtypes = st.sampled_from(
    "? i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8 c8 c16 >i4 >f8 >u2 >c8".split()  # noqa: SIM905
).map(np.dtype)
arrays = dtypes.flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0))
)
leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**200), 2**200)
    | st.floats(allow_nan=True, allow_infinity=True)
    | st.text()
    | st.binary()
    | arrays
    | arrays.filter(lambda a: a.size > 0).map(lambda a: a.reshape(-1)[0])
)
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers() | st.just("$array"), inner)
    ),
    max_leaves=20,
)


@given(trees)
@settings(deadline=None)
def test_a_tree_comes_back_with_its_types_and_bits(value: Any) -> None:
    assert same(round_trip(value), value)


def test_the_state_of_torch_optimizers_has_a_place() -> None:
    state = {
        "state": {0: {"step": np.float32(3), "exp_avg": np.zeros((2, 2), np.float32)}},
        "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.999), "params": [0]}],
    }
    assert same(round_trip(state), state)


def test_arrays_that_are_not_contiguous_come_back_by_value() -> None:
    array = np.arange(24).reshape(4, 6)[::2, ::-3].T
    np.testing.assert_array_equal(round_trip(array), array)


def test_arrays_come_back_writable() -> None:
    array = round_trip(np.zeros(3, np.float32))
    array[0] = 1
    assert array[0] == 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (object(), "state: expected JSON values.*got builtins.object"),
        ({"a": [1, {2}]}, r"state\['a'\]\[1\]: expected JSON values.*got builtins.set"),
        (np.array(["text"]), "got dtype <U4"),
        (np.array([object()]), "got dtype object"),
        (np.zeros(1, np.longdouble), "got dtype float128"),
        ({1.5: 0}, "keys of a dict are str or int, got 1.5"),
        ({True: 0}, "keys of a dict are str or int, got True"),
        (1 << 5000, "more than 4096 bits"),
    ],
)
def test_what_has_no_place_is_refused_by_its_path(value: Any, message: str) -> None:
    with pytest.raises(em.InvalidArgument, match=message):
        tree.encode(value)


def test_depth_has_a_limit() -> None:
    deep: Any = 0
    for _ in range(200):
        deep = [deep]
    with pytest.raises(em.InvalidArgument, match="deeper than 100 levels"):
        tree.encode(deep)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"$unknown": 1}',
        '{"$array": 5, "dtype": "<f4", "shape": [1]}',
        '{"$array": 0, "dtype": "|O", "shape": [1]}',
        '{"$array": 0, "dtype": "<f4", "shape": [2]}',
        '{"$scalar": 0, "dtype": "<f8"}',
        '{"$float": "00"}',
        '{"$dict": [1]}',
    ],
)
def test_a_text_that_does_not_fit_its_arrays_is_refused(text: str) -> None:
    with pytest.raises(em.CheckpointCorrupt, match="tree: expected the JSON"):
        tree.decode(text, [np.zeros(4, np.uint8)])


def test_a_nan_keeps_its_payload() -> None:
    (nan,) = struct.unpack(">d", bytes.fromhex("7ff8000000000123"))
    assert math.isnan(nan)
    assert struct.pack(">d", round_trip(nan)).hex() == "7ff8000000000123"
