"""Counter-based random numbers: fixed for ever, and distributed as they say."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from embery.data.counter import mix, normal, permutation, uniform

WORD = st.integers(0, 2**64 - 1)


def test_golden_numbers_never_change() -> None:
    # The first outputs of splitmix64 seeded with 0 and 1.
    assert int(mix(0)) == 0xE220A8397B1DCDAF
    assert int(mix(1)) == 0x910A2DEC89025CC1
    assert int(mix(7, 1, 2**64 - 1)) == int(mix(7, 1, np.array([2**64 - 1], np.uint64))[0])
    assert permutation(8, 0, 1).tolist() == [3, 0, 1, 5, 2, 7, 4, 6]


@given(st.lists(WORD, min_size=1, max_size=4), st.lists(WORD, min_size=1, max_size=20))
def test_arrays_and_integers_give_the_same_numbers(words: list[int], last: list[int]) -> None:
    together = mix(*words, np.array(last, np.uint64))
    assert together.tolist() == [int(mix(*words, one)) for one in last]


def test_numbers_are_distributed_as_they_say() -> None:
    rows = np.arange(200_000, dtype=np.uint64)
    u, z = uniform(3, rows), normal(4, rows)
    assert 0 < u.min() < 1e-4
    assert 1 - 1e-4 < u.max() < 1
    np.testing.assert_allclose([u.mean(), u.var()], [1 / 2, 1 / 12], atol=2e-3)
    np.testing.assert_allclose([z.mean(), z.var()], [0, 1], atol=1e-2)
    assert np.abs(z).max() < 3.47


@given(st.integers(0, 300), WORD)
def test_a_permutation_holds_every_index_once(n: int, seed: int) -> None:
    assert sorted(permutation(n, seed).tolist()) == list(range(n))
