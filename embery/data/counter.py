"""Counter-based random numbers in NumPy: pure functions of integers, the same on every machine.

The splitmix64 finaliser (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
OOPSLA 2014) is chained over the integers that name a number: seed, stream, row and so on. Nothing
depends on the order of calls, so any part of a stream can be computed on its own.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = 2**64 - 1
_EVEN_PARTS = np.uint64(0x0000FFFF0000FFFF)


def mix(*words: int | U64) -> U64:
    """Return the hash of a chain of integers, uint64, broadcast over the words that are arrays.

    For fixed other words it is a bijection of the last one.
    """
    state: int | U64 = 0
    for word in words:
        if isinstance(state, int) and isinstance(word, int):
            state = _finalise_int(((state ^ word) + _GOLDEN) & _MASK)
            continue
        state = np.asarray(state, np.uint64) ^ np.asarray(word, np.uint64)
        state += np.uint64(_GOLDEN)
        _finalise(state)
    return np.asarray(state, np.uint64)


def uniform(*words: int | U64) -> NDArray[np.float64]:
    """Return `mix(*words)` as numbers in (0, 1): ((h >> 11) + 0.5) * 2**-53."""
    numbers: NDArray[np.float64] = (mix(*words) >> np.uint64(11)).astype(np.float64)
    numbers += 0.5
    numbers *= 2.0**-53
    return numbers


def normal(*words: int | U64) -> NDArray[np.float64]:
    """Return numbers of mean 0 and variance 1, nearly normal, within 3.47 of 0.

    They are the sum of the four 16-bit parts of `mix(*words)` (Irwin-Hall), standardised: integer
    arithmetic and one division, so that no library's exp or log has a say in them.
    """
    parts = mix(*words)
    pairs = (parts & _EVEN_PARTS) + ((parts >> np.uint64(16)) & _EVEN_PARTS)
    sums = (pairs & np.uint64(2**32 - 1)) + (pairs >> np.uint64(32))
    numbers: NDArray[np.float64] = sums.astype(np.float64)
    numbers -= 2 * (2**16 - 1)
    numbers /= math.sqrt((2**32 - 1) / 3)
    return numbers


def permutation(n: int, *words: int) -> NDArray[np.int64]:
    """Return a random order of 0..n-1, int64 (n,), a pure function of n and the words."""
    return np.argsort(mix(*words, np.arange(n, dtype=np.uint64)))


def _finalise(z: U64) -> None:
    """Apply the finaliser in place."""
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)


def _finalise_int(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)
