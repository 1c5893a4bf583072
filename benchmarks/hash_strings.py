"""Strings to keys: the native hash over Arrow buffers, and PyPI mmh3 called value by value.

    python -m benchmarks.hash_strings

The contenders take turns; a rate is the median of the rounds, `best` the fastest, and a ratio is
one of the fastest, in a column so short that a call fits into a slice of a busy processor. `hash`
begins with strings where each wants them: mmh3 a list of Python strings, Embery an Arrow array.
`column` begins with an Arrow array for both, as a reader has it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import mmh3
import pyarrow as pa

from benchmarks.measure import emit, emit_rate, timed_steps
from embery.data.keys import keys_of

STRINGS: dict[str, Callable[[int], str]] = {
    "ids of 6 to 11 bytes": lambda i: f"user_{i}",
    "hexadecimal digests of 32 bytes": lambda i: f"{i * 0x9E3779B97F4A7C15 % 2**128:032x}",
    "mixed lengths of 0 to 23 bytes": lambda i: "x" * (i * 7919 % 24),
}
SEED = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--values", type=int, default=10_000, help="strings of a column")
    parser.add_argument("--rounds", type=int, default=100)
    options = parser.parse_args()
    for workload, make in STRINGS.items():
        compare(workload, [make(i) for i in range(options.values)], rounds=options.rounds)


def compare(workload: str, texts: list[str], *, rounds: int) -> None:
    array = pa.array(texts)
    assert keys_of(array, SEED).tolist() == by_mmh3(texts)
    native_s, list_s, column_s = [], [], []
    for _ in range(rounds):
        native_s += timed_steps(lambda _: keys_of(array, SEED), steps=1, warm=1)[0]
        list_s += timed_steps(lambda _: by_mmh3(texts), steps=1, warm=0)[0]
        column_s += timed_steps(lambda _: by_mmh3(array.to_pylist()), steps=1, warm=0)[0]
    emit_rate("embery", "hash", len(texts), native_s, workload, unit="values/s")
    for metric, step_s in (("hash", list_s), ("column", column_s)):
        emit_rate("mmh3", metric, len(texts), step_s, workload, unit="values/s")
        emit("embery", f"{metric}_over_mmh3", min(step_s) / min(native_s), "x", workload)


def by_mmh3(texts: list[str]) -> list[int]:
    return [mmh3.hash64(text, SEED, signed=False)[0] for text in texts]


if __name__ == "__main__":
    main()
