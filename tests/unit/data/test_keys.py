"""Strings become the keys that mmh3 gives, in every Arrow layout."""

from __future__ import annotations

import mmh3
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embery import _native
from embery.data.keys import is_key_type, keys_of, keys_of_hex, valid_of
from embery.errors import InvalidArgument

SEEDS = st.integers(0, 2**32 - 1)
LAYOUTS = [
    pa.string(),
    pa.large_string(),
    pa.binary(),
    pa.large_binary(),
    pa.dictionary(pa.int32(), pa.string()),
    pa.dictionary(pa.int8(), pa.large_string()),
]


def by_mmh3(values: list[str | bytes], seed: int) -> list[int]:
    return [mmh3.hash64(v, seed, signed=False)[0] for v in values]


@pytest.mark.parametrize(
    ("text", "seed", "key"),
    [
        ("", 0, 0x0),
        ("", 1, 0x4610ABE56EFF5CB5),
        ("a", 0, 0x85555565F6597889),
        ("hello", 42, 0xC4B8B3C960AF6F08),
        ("0123456789abcdef", 7, 0x500CA03648B1F185),
        ("0123456789abcdefg", 2**32 - 1, 0x6835C90072202223),
        ("Grüße", 0, 0xC8433D0B9D11B436),
    ],
)
def test_golden_strings_keep_their_keys(text: str, seed: int, key: int) -> None:
    assert keys_of(pa.array([text]), seed).tolist() == [key]


@given(st.lists(st.text(max_size=70)), SEEDS)
def test_text_hashes_as_mmh3_does(texts: list[str], seed: int) -> None:
    assert keys_of(pa.array(texts, pa.string()), seed).tolist() == by_mmh3(texts, seed)


@given(st.lists(st.binary(max_size=70)), SEEDS)
def test_bytes_hash_as_mmh3_does(values: list[bytes], seed: int) -> None:
    assert keys_of(pa.array(values, pa.large_binary()), seed).tolist() == by_mmh3(values, seed)


@given(st.lists(st.none() | st.text(max_size=20), max_size=40), st.data())
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_slices_chunks_and_nulls_of_any_layout_hash_alike(
    layout: pa.DataType, values: list[str | None], data: st.DataObject
) -> None:
    begin = data.draw(st.integers(0, len(values)))
    cut = data.draw(st.integers(begin, len(values)))
    whole = pa.array(values, pa.string()).cast(layout)
    chunked = pa.chunked_array([whole.slice(begin, cut - begin), whole.slice(cut)], layout)
    keys = keys_of(chunked, 3)
    kept = values[begin:]
    assert len(keys) == len(kept)
    found = [int(k) for k, v in zip(keys, kept, strict=True) if v is not None]
    assert found == by_mmh3([v for v in kept if v is not None], 3)


def test_fixed_size_and_view_layouts_hash_alike() -> None:
    values = [b"abcd", b"\0\0\0\0", b"wxyz"]
    expected = by_mmh3(values, 5)
    assert keys_of(pa.array(values, pa.binary(4)), 5).tolist() == expected
    assert keys_of(pa.array(values, pa.binary(4)).slice(1), 5).tolist() == expected[1:]
    assert keys_of(pa.array(values, pa.binary_view()), 5).tolist() == expected


def test_a_null_within_a_dictionary_is_a_null() -> None:
    array = pa.DictionaryArray.from_arrays(
        pa.array([0, 1, None, 2, 0], pa.int32()), pa.array(["a", None, "c"])
    )
    valid = valid_of(array)
    assert valid is not None
    assert valid.tolist() == [True, False, False, True, True]
    assert keys_of(array, 0)[valid].tolist() == by_mmh3(["a", "c", "a"], 0)


def test_an_all_null_dictionary_has_keys_for_nobody() -> None:
    array = pa.array([None, None], pa.string()).dictionary_encode()
    assert len(keys_of(array)) == 2
    assert valid_of(array).tolist() == [False, False]  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", [pa.int8(), pa.int16(), pa.int32(), pa.int64()], ids=str)
def test_a_signed_integer_is_its_own_key_sign_extended(kind: pa.DataType) -> None:
    keys = keys_of(pa.array([-1, 0, 100], kind))
    assert keys.dtype == np.uint64
    assert keys.tolist() == [2**64 - 1, 0, 100]


def test_an_unsigned_integer_or_boolean_is_its_own_key() -> None:
    assert keys_of(pa.array([0, 2**64 - 1], pa.uint64())).tolist() == [0, 2**64 - 1]
    assert keys_of(pa.array([255], pa.uint8())).tolist() == [255]
    assert keys_of(pa.array([True, False, True]).slice(1)).tolist() == [0, 1]
    assert keys_of(pa.array([7, 8, 9], pa.int64()).slice(1)).tolist() == [8, 9]


def test_int64_keys_are_a_view_of_arrow_memory() -> None:
    array = pa.array(range(100), pa.int64())
    assert keys_of(array).ctypes.data == array.buffers()[1].address


@pytest.mark.parametrize("kind", [pa.float32(), pa.timestamp("s"), pa.null()], ids=str)
def test_values_without_keys_are_refused(kind: pa.DataType) -> None:
    assert not is_key_type(kind)
    with pytest.raises(InvalidArgument, match="have no keys"):
        keys_of(pa.nulls(3, kind))


@given(st.lists(st.integers(0, 2**64 - 1)))
def test_hexadecimal_strings_become_their_numbers(numbers: list[int]) -> None:
    assert keys_of_hex(pa.array([f"{n:x}" for n in numbers], pa.string())).tolist() == numbers
    assert keys_of_hex(pa.array([f"{n:X}" for n in numbers], pa.string())).tolist() == numbers


@pytest.mark.parametrize("text", ["xyz", "0x1", "-1", "0" * 17])
def test_what_is_not_hexadecimal_is_refused_by_its_number(text: str) -> None:
    with pytest.raises(InvalidArgument, match="string 1 is not"):
        keys_of_hex(pa.array(["ab", text]))


def test_native_hash_refuses_offsets_that_leave_the_buffer() -> None:
    for offsets in ([0, 9], [3, 1], [-1, 1]):
        with pytest.raises(InvalidArgument, match="string 0 spans"):
            _native.hash_strings(np.array(offsets, np.int32), np.zeros(4, np.uint8), 0)


def test_a_tables_salt_is_the_hash_of_its_name() -> None:
    assert _native.table_salt("item") == by_mmh3(["item"], 0)[0]
    assert _native.table_salt("Größe") == by_mmh3(["Größe"], 0)[0]
