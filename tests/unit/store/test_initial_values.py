"""First values: a pure function of (seed, key, column), distributed as they say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import special, stats

import embery as em

U64 = NDArray[np.uint64]
F64 = NDArray[np.float64]
MANY = np.arange(20_000, dtype=np.uint64)
SOME = np.array([0, 1, 2, 2**32, 2**63, 2**64 - 1], np.uint64)


def mix(x: U64) -> U64:
    """splitmix64 (Steele, Lea, Flood, OOPSLA 2014): the step of its state, then its finaliser."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def uniform(seed: int, keys: U64, dim: int) -> F64:
    """Return what the values of (seed, key, column) are made of: in (0, 1), shape (n, dim)."""
    base = mix(mix(np.array([seed], np.uint64)) ^ keys)
    bits = mix(base[:, None] + np.arange(dim, dtype=np.uint64))
    return ((bits >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def first_values(connect: Any, initializer: em.init.Initializer, keys: U64, dim: int) -> Any:
    return connect(em.Table("t", dim=dim, initializer=initializer)).pull("t", keys)


EXPECTED: dict[em.init.Initializer, Any] = {
    em.init.Zeros(): np.zeros_like,
    em.init.Constant(-1.25): lambda u: np.full_like(u, -1.25),
    em.init.Uniform(0.3, seed=2**64 - 1): lambda u: 0.3 * (2 * u - 1),
    em.init.Normal(0.7, mean=-2.0, seed=9): lambda u: -2 + 0.7 * special.ndtri(u),
    em.init.TruncatedNormal(0.7, mean=1.0, seed=1): lambda u: (
        1 + 0.7 * special.ndtri(special.ndtr(-2.0) + u * (1 - 2 * special.ndtr(-2.0)))
    ),
}


@pytest.mark.parametrize("initializer", EXPECTED, ids=lambda i: type(i).__name__)
def test_values_are_the_documented_function_of_seed_key_and_column(
    connect: Any, initializer: em.init.Initializer
) -> None:
    """Within one unit in the last place of float32 of SciPy's quantiles, over 60,000 values."""
    values = first_values(connect, initializer, MANY, 3)
    expected = EXPECTED[initializer](uniform(initializer.to_dict()["seed"], MANY, 3))
    np.testing.assert_array_max_ulp(values, expected.astype(np.float32), maxulp=1)


def test_normal_keeps_its_precision_in_the_tails(connect: Any) -> None:
    values = first_values(connect, em.init.Normal(1.0, seed=3), MANY, 50)
    expected = special.ndtri(uniform(3, MANY, 50))
    assert abs(expected).max() > 4.5
    np.testing.assert_allclose(values, expected, rtol=1.2e-7, atol=1e-9)


GOLDEN = {
    em.init.Uniform(1.0, seed=7): [
        ["3e600a3d", "bf4cc276"],
        ["bdfef38f", "3eb07031"],
        ["3c633f8c", "3eac0d59"],
        ["bf164371", "3e175403"],
        ["bea0238c", "bdee6a97"],
        ["be09b964", "3f2b2f40"],
    ],
    em.init.Normal(1.0, seed=7): [
        ["3e8e341c", "bfa3fb28"],
        ["be206bbf", "3ee47efc"],
        ["3c8e69f4", "3ede706b"],
        ["bf518d9d", "3e3ec265"],
        ["bece2407", "be15f07b"],
        ["be2d6ff6", "3f78b2ca"],
    ],
    em.init.TruncatedNormal(1.0, seed=7): [
        ["3e879376", "bf9781ea"],
        ["be1910d6", "3ed96efb"],
        ["3c87eef4", "3ed3b472"],
        ["bf45cb2b", "3e35fc4d"],
        ["bec44680", "be0f124b"],
        ["be2579a5", "3f697cee"],
    ],
}


@pytest.mark.parametrize("initializer", GOLDEN, ids=lambda i: type(i).__name__)
def test_golden_values_never_change(connect: Any, initializer: em.init.Initializer) -> None:
    """Float32 bits of columns 0 and 1: a table that was restored goes on with the same values."""
    bits = first_values(connect, initializer, SOME, 2).view(np.uint32)
    assert [[f"{b:08x}" for b in row] for row in bits] == GOLDEN[initializer]


@pytest.mark.parametrize(
    ("initializer", "distribution"),
    [
        (em.init.Uniform(0.5, seed=4), stats.uniform(-0.5, 1.0)),
        (em.init.Normal(0.1, mean=0.3, seed=4), stats.norm(0.3, 0.1)),
        (em.init.TruncatedNormal(0.1, mean=0.3, seed=4), stats.truncnorm(-2, 2, 0.3, 0.1)),
    ],
    ids=["Uniform", "Normal", "TruncatedNormal"],
)
def test_values_have_the_distribution(
    connect: Any, initializer: em.init.Initializer, distribution: Any
) -> None:
    """Kolmogorov-Smirnov over keys and over columns; mean and spread within 4 standard errors."""
    by_key = first_values(connect, initializer, MANY, 2)
    by_column = first_values(connect, initializer, np.array([5], np.uint64), 4096)[0]
    for sample in (by_key[:, 0], by_key[:, 1], by_column):
        assert stats.kstest(sample, distribution.cdf).pvalue > 1e-3
    error = distribution.std() / by_key.size**0.5
    assert abs(by_key.mean(dtype=np.float64) - distribution.mean()) < 4 * error
    assert abs(by_key.std(dtype=np.float64) / distribution.std() - 1) < 4 / by_key.size**0.5
    low, high = distribution.support()
    assert low <= by_key.min()
    assert by_key.max() <= high
    assert abs(np.corrcoef(by_key[:, 0], by_key[:, 1])[0, 1]) < 4 / len(MANY) ** 0.5
    assert abs(np.corrcoef(by_key[1:, 0], by_key[:-1, 0])[0, 1]) < 4 / len(MANY) ** 0.5


def test_seeds_give_unrelated_values(connect: Any) -> None:
    one, two = (first_values(connect, em.init.Normal(1.0, seed=s), MANY, 1) for s in (0, 1))
    assert abs(np.corrcoef(one[:, 0], two[:, 0])[0, 1]) < 4 / len(MANY) ** 0.5


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
def test_first_value_does_not_depend_on_order_batches_threads_or_the_call_that_inserts(
    connect: Any, dtype: str
) -> None:
    keys = np.random.default_rng(0).integers(0, 2**64, 12_000, dtype=np.uint64)
    table = em.Table(
        "t", dim=3, dtype=dtype, optimizer=em.optim.SGD(lr=0.0), initializer=em.init.Normal(1.0)
    )
    at_once = connect(table, threads=4).pull("t", keys)

    backwards = connect(table)
    for part in np.array_split(keys[::-1], 17):
        backwards.pull("t", part)
    np.testing.assert_array_equal(backwards.pull("t", keys, train=False), at_once)

    pushed = connect(table)
    pushed.push("t", keys[:100], np.zeros((100, 3), np.float32))
    # A push stores what its step gave; at lr 0 that is the first value, but for int8's rounding.
    if dtype != "int8":
        np.testing.assert_array_equal(pushed.pull("t", keys[:100]), at_once[:100])

    held_back = connect(
        em.Table("t", dim=3, dtype=dtype, initializer=em.init.Normal(1.0), admission=em.MinCount(9))
    )
    np.testing.assert_array_equal(held_back.pull("t", keys), at_once)
    assert held_back.stats()["tables"]["t"]["rows"] == 0


def test_a_wider_table_begins_with_the_same_columns(connect: Any) -> None:
    narrow = first_values(connect, em.init.Normal(1.0, seed=2), SOME, 3)
    wide = first_values(connect, em.init.Normal(1.0, seed=2), SOME, 40)
    np.testing.assert_array_equal(wide[:, :3], narrow)
