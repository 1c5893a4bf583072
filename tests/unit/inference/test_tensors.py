"""Tensors of the protocol become features, or one message that names the input."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest

from embery.errors import InvalidArgument
from embery.serving.scorer import Input
from embery.serving.tensors import (
    DTYPES,
    features_of,
    tensor_of_bytes,
    tensor_of_list,
    tensors_of,
)

INPUTS = (
    Input("price", "number"),
    Input("user", "key"),
    Input("clicked", "key", length_max=5),
    Input("dwell", "weight", length_max=5, weighs="clicked"),
)


@pytest.mark.parametrize("datatype", [name for name in DTYPES if name != "BYTES"])
def test_lists_and_bytes_of_a_data_type_are_the_same_tensor(datatype: str) -> None:
    expected = np.array([[1, 0], [0, 1], [1, 1]], DTYPES[datatype])
    values = expected.tolist()
    for data in (values, np.ravel(values).tolist()):
        listed = tensor_of_list("x", datatype, [3, 2], data)
        assert listed.dtype == expected.dtype
        np.testing.assert_array_equal(listed, expected)
    np.testing.assert_array_equal(
        tensor_of_bytes("x", datatype, [3, 2], memoryview(expected.tobytes())), expected
    )


def test_strings_travel_with_their_lengths() -> None:
    strings = [b"shoes", b"", "größe".encode()]
    raw = b"".join(struct.pack("<I", len(s)) + s for s in strings)
    assert tensor_of_bytes("x", "BYTES", [3], raw).tolist() == strings
    assert tensor_of_list("x", "BYTES", [3], ["a", "b", "c"]).tolist() == ["a", "b", "c"]


def test_the_largest_keys_keep_all_their_bits() -> None:
    keys = [1, 2**64 - 1, 2**63]
    assert tensor_of_list("x", "UINT64", [3], keys).tolist() == keys
    assert tensor_of_list("x", "INT64", [2], [-(2**63), 2**63 - 1]).tolist()[0] == -(2**63)


@pytest.mark.parametrize(
    ("datatype", "shape", "data"),
    [
        ("INT64", [1], [1.5]),
        ("INT8", [1], [300]),
        ("UINT64", [1], [-1]),
        ("UINT64", [1], [1.5]),
        ("INT64", [1], ["1"]),
        ("INT64", [1], [True]),
        ("INT64", [1], [None]),
        ("FP32", [1], ["x"]),
        ("FP32", [2], [[1.0], [2.0, 3.0]]),
        ("BYTES", [1], [1]),
        ("INT64", [2], [1]),
        ("INT64", [-1], [1]),
        ("INT64", [-1, -1], [1]),
        ("COMPLEX", [1], [1]),
        ("INT64", [1], {"a": 1}),
    ],
)
def test_a_value_of_another_type_or_number_is_refused(
    datatype: str, shape: list[int], data: Any
) -> None:
    with pytest.raises(InvalidArgument, match="'x'"):
        tensor_of_list("x", datatype, shape, data)


@pytest.mark.parametrize(
    ("datatype", "shape", "raw"),
    [
        ("INT64", [1], b"1234567"),
        ("INT64", [2], b"12345678"),
        ("BYTES", [1], b"\x05\x00\x00\x00abc"),
        ("BYTES", [1], b"\x05\x00"),
        ("BYTES", [2], b"\x00\x00\x00\x00"),
        ("BYTES", [1], b"\xff\xff\xff\xffa"),
    ],
)
def test_bytes_that_do_not_fit_are_refused(datatype: str, shape: list[int], raw: bytes) -> None:
    with pytest.raises(InvalidArgument, match="'x'"):
        tensor_of_bytes("x", datatype, shape, raw)


def test_lists_come_with_their_lengths_and_weights_share_those_of_their_keys() -> None:
    tensors = {
        "price": np.ones(2, np.float32),
        "user": np.array([1, 2]),
        "clicked": np.array([7, 8, 9]),
        "clicked.lengths": np.array([1, 2]),
        "dwell": np.ones(3, np.float32),
    }
    features = features_of(INPUTS, tensors)
    assert features.keys() == {"price", "user", "clicked", "dwell"}
    assert features["user"] is tensors["user"]
    for name in ("clicked", "dwell"):
        values, lengths = features[name]
        assert values is tensors[name]
        assert lengths is tensors["clicked.lengths"]


def test_what_the_model_does_not_know_is_left_for_it_to_refuse() -> None:
    features = features_of(INPUTS, {"colour": np.ones(1), "price.lengths": np.ones(1)})
    assert features.keys() == {"colour", "price.lengths"}


def test_metadata_name_the_lengths_of_lists() -> None:
    assert [info.name for info in tensors_of(INPUTS)] == [
        "price", "user", "clicked", "clicked.lengths", "dwell",
    ]  # fmt: skip
