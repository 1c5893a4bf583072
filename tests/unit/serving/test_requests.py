"""What a request may bring, and what is refused with the feature's name."""

from __future__ import annotations

from typing import Any

import mmh3
import numpy as np
import pyarrow as pa
import pytest

import embery as em
from embery.data.convert import block_of
from embery.serving.requests import RequestReader

SCHEMA = em.data.Schema(
    label="y",
    dense=[em.data.Dense("price", transform="log1p", default=3.0)],
    sparse=[
        em.data.Sparse("user", hash_seed=7),
        em.data.SparseList("clicked", weights="seconds", max_length=2),
        em.data.SparseList("words"),
    ],
)


def request_of(**changes: Any) -> dict[str, Any]:
    return {
        "price": np.array([1.5, np.nan]),
        "user": np.array(["ann", b"bob"], object),
        "clicked": (np.array([-1, 2]), np.array([0, 2])),
        "seconds": (np.array([0.5, 2.0]), np.array([0, 2])),
        "words": np.array([[1, 2, 3], [4, 5, 6]], np.uint32),
    } | changes


def test_a_request_reads_as_the_same_values_of_a_file() -> None:
    records = pa.RecordBatch.from_pydict(
        {
            "y": [0.0, 0.0],
            "price": [1.5, None],
            "user": ["ann", "bob"],
            "clicked": [[], [-1, 2]],
            "seconds": [[], [0.5, 2.0]],
            "words": [[1, 2, 3], [4, 5, 6]],
        }
    )
    expected = block_of(records, SCHEMA, "file")
    block = RequestReader(SCHEMA).read(request_of())
    np.testing.assert_array_equal(block.dense, expected.dense)
    for bags, others in zip(block.sparse, expected.sparse, strict=True):
        np.testing.assert_array_equal(bags.values, others.values)
        np.testing.assert_array_equal(bags.lengths(), others.lengths())
    np.testing.assert_array_equal(block.sparse[1].weights, expected.sparse[1].weights)
    assert block.sparse[0].values[0] == mmh3.hash64("ann", 7, signed=False)[0]


def test_inputs_say_what_a_request_must_bring() -> None:
    described = [(i.name, i.kind, i.length_max, i.weighs) for i in RequestReader(SCHEMA).inputs]
    assert described == [
        ("price", "number", 1, None),
        ("user", "key", 1, None),
        ("clicked", "key", 2, None),
        ("seconds", "weight", 2, "clicked"),
        ("words", "key", 1024, None),
    ]


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int64, np.uint64, bool])
def test_integers_of_any_width_are_keys(dtype: Any) -> None:
    block = RequestReader(SCHEMA).read(request_of(user=np.array([[0], [1]], dtype)))
    np.testing.assert_array_equal(block.sparse[0].values, np.array([0, 1], np.uint64))


def test_a_key_may_be_missing() -> None:
    user = (np.array([9]), np.array([0, 1]))
    block = RequestReader(SCHEMA).read(request_of(user=user))
    np.testing.assert_array_equal(block.sparse[0].lengths(), [0, 1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"age": np.zeros(2)}, "'age' is not known"),
        ({"price": np.zeros(3)}, "'user': expected 3 samples"),
        ({"price": np.array(1.0)}, r"'price'.*shape \(samples,\)"),
        ({"price": np.array(["1", "2"])}, "'price': expected numbers"),
        ({"price": np.array([1.0, np.inf])}, "'price', value 1: expected a finite"),
        ({"price": np.zeros((2, 2))}, "'price', sample 0: expected at most 1"),
        ({"user": np.array([1.0, 2.0])}, "'user': expected integers or strings"),
        ({"user": np.array([None, {}], object)}, "'user': expected integers or strings"),
        ({"user": np.array([[1, 2], [3, 4]])}, "'user', sample 0: expected at most 1"),
        ({"user": np.zeros((2, 1, 1), np.int64)}, r"'user'.*\(2, 1, 1\)"),
        ({"clicked": (np.arange(3), np.array([0, 3]))}, "'clicked', sample 1: expected at most 2"),
        ({"clicked": (np.arange(3), np.array([1, 1]))}, "add up to 2, but there are 3"),
        ({"clicked": (np.arange(1), np.array([-1, 2]))}, "a length is negative"),
        ({"clicked": (np.arange(2), np.array([0.0, 2.0]))}, "integer lengths"),
        ({"clicked": (np.arange(2), np.array([1, 1]))}, "'seconds': its lists are not as long"),
        ({"seconds": (np.array([1, np.nan]), np.array([0, 2]))}, "'seconds', value 1"),
        ({"words": np.zeros((2, 1025), np.int64)}, "'words', sample 0: expected at most 1024"),
    ],
)
def test_a_request_that_does_not_fit_names_its_feature(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(em.InvalidArgument, match=message):
        RequestReader(SCHEMA).read(request_of(**changes))


def test_a_missing_feature_is_named() -> None:
    request = request_of()
    del request["clicked"]
    with pytest.raises(em.InvalidArgument, match="'clicked' is missing"):
        RequestReader(SCHEMA).read(request)
