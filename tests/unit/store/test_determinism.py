"""The same pushes give the same bits: for any number of threads, SIMD target and split of keys."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import embery as em
from embery import _native

OPTIMIZERS = [
    em.optim.SGD(lr=0.1, weight_decay=0.01),
    em.optim.Momentum(lr=0.1, weight_decay=0.01),
    em.optim.Adagrad(lr=0.1, weight_decay=0.01),
    em.optim.RowwiseAdagrad(lr=0.1, weight_decay=0.01),
    em.optim.Adam(lr=0.1, weight_decay=0.01),
    em.optim.LazyAdam(lr=0.1),
    em.optim.AdamW(lr=0.1),
    em.optim.FTRL(lr=0.1, l1=0.01, l2=0.1),
]
DTYPES = ["float32", "float16", "bfloat16", "int8"]
each_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: o.kind)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)

Batch = tuple[NDArray[np.uint64], NDArray[np.float32]]


def table_of(optimizer: em.optim.Optimizer, dtype: Any, dim: int, **fields: Any) -> em.Table:
    initializer = em.init.Normal(0.1, seed=11)
    return em.Table(
        "t", dim=dim, optimizer=optimizer, dtype=dtype, initializer=initializer, **fields
    )


def batches(count: int, size: int, keys: int, dim: int) -> list[Batch]:
    rng = np.random.default_rng(size + dim)
    return [
        (
            rng.integers(0, keys, size, dtype=np.uint64),
            rng.standard_normal((size, dim)).astype(np.float32),
        )
        for _ in range(count)
    ]


@each_dtype
@each_optimizer
def test_same_bits_for_any_number_of_threads(
    connect: Any, snapshot: Any, clock: Any, optimizer: em.optim.Optimizer, dtype: str
) -> None:
    """The batches are large enough (above 8192 keys) for the work to be shared out."""
    work = batches(3, 20_000, 15_000, dim=3)
    seen = []
    for threads in (1, 2, 4):
        store = connect(table_of(optimizer, dtype, 3), threads=threads, clock=clock)
        pulled = []
        for keys, grads in work:
            pulled.append(store.pull("t", keys).tobytes())
            store.push("t", keys, grads)
        seen.append((pulled, snapshot(store, "t")))
    assert seen[0] == seen[1] == seen[2]


def run_on(connect: Any, snapshot: Any, simd: str, table: em.Table) -> Any:
    store = connect(table, simd=simd, clock=lambda: 0.0)
    assert store.stats()["servers"]["embedded"]["simd"] == simd
    pulled = []
    for keys, grads in batches(6, 60, 25, table.dim):
        pulled.append(store.pull("t", keys).tobytes())
        # From a subnormal to a number whose square is far above the rest.
        scales = 10.0 ** np.arange(-20, 10, 0.5)
        store.push("t", keys, (grads * scales[:, None]).astype(np.float32))
    return pulled, snapshot(store, "t")


@pytest.mark.parametrize("target", ["avx2", "avx512"])
@each_dtype
@each_optimizer
def test_same_bits_on_every_simd_target(
    connect: Any, snapshot: Any, optimizer: em.optim.Optimizer, dtype: str, target: str
) -> None:
    if target not in _native.simd_targets():
        pytest.skip(f"this processor does not run {target}: {_native.simd_targets()}")
    for dim in (1, 3, 16, 17, 33, 100):
        table = table_of(optimizer, dtype, dim)
        baseline = run_on(connect, snapshot, "baseline", table)
        assert run_on(connect, snapshot, target, table) == baseline, f"dim {dim}"


def test_duplicates_are_summed_in_order_of_appearance(connect: Any) -> None:
    """In float32 (1e8 + 1) - 1e8 is 0 and (1e8 - 1e8) + 1 is 1: the order shows."""
    table = em.Table("t", dim=17, optimizer=em.optim.SGD(lr=1.0), initializer=em.init.Zeros())
    store = connect(table)
    big, one = np.float32(1e8), np.float32(1)
    first, second = np.array([big, one, -big]), np.array([big, -big, one])
    keys = np.array([5, 6, 5, 6, 9, 5, 6], np.uint64)
    grads = np.zeros((7, 17), np.float32)
    grads[[0, 2, 5]] = first[:, None]
    grads[[1, 3, 6]] = second[:, None]
    store.push("t", keys, grads)
    assert (store.pull("t", [5, 6]) == np.array([[0.0], [-1.0]])).all()


@pytest.mark.parametrize("simd", _native.simd_targets())
def test_sum_of_duplicates_is_the_sequential_float32_sum(connect: Any, simd: str) -> None:
    rng = np.random.default_rng(0)
    grads = (rng.standard_normal((50, 19)) * 10.0 ** rng.integers(-6, 6, (50, 19))).astype("f4")
    table = em.Table("t", dim=19, optimizer=em.optim.SGD(lr=1.0), initializer=em.init.Zeros())
    store = connect(table, simd=simd)
    store.push("t", np.full(50, 3, np.uint64), grads)
    expected = grads[0].copy()
    for grad in grads[1:]:
        expected += grad
    assert store.pull("t", [3])[0].tobytes() == (0 - expected).tobytes()


def test_rows_do_not_depend_on_other_tables_nor_on_how_calls_are_joined(
    connect: Any, snapshot: Any, clock: Any
) -> None:
    """pull_batch and push_batch of two tables equal four calls of one."""
    tables = [
        em.Table("a", dim=3, optimizer=em.optim.Adam()),
        em.Table("b", dim=5, dtype="int8", optimizer=em.optim.FTRL()),
    ]
    joined, apart = connect(*tables, threads=2, clock=clock), connect(*tables, clock=clock)
    rng = np.random.default_rng(4)
    for _ in range(5):
        keys = [rng.integers(0, 50, n, dtype=np.uint64) for n in (40, 9_000)]
        grads = [
            rng.standard_normal((k.size, t.dim)).astype("f4")
            for k, t in zip(keys, tables, strict=True)
        ]
        out = [np.empty_like(grad) for grad in grads]
        joined.pull_batch(["a", "b"], keys, out, mode="train")
        joined.push_batch(["a", "b"], keys, grads)
        for i, name in enumerate("ab"):
            assert apart.pull(name, keys[i]).tobytes() == out[i].tobytes()
            apart.push(name, keys[i], grads[i])
    for name in "ab":
        assert snapshot(joined, name) == snapshot(apart, name)


@each_dtype
def test_bits_do_not_depend_on_the_callers_floating_point_mode(connect: Any, dtype: str) -> None:
    """torch.set_flush_denormal changes the arithmetic of the calling thread, not of a store.

    Half-precision values below 6e-5 are subnormal, and ordinary in a table.
    """
    torch = pytest.importorskip("torch")
    table = em.Table(
        "t", dim=3, dtype=dtype, optimizer=em.optim.SGD(lr=1.0), initializer=em.init.Zeros()
    )
    keys, grads = np.arange(20_000, dtype=np.uint64), np.full((20_000, 3), 1e-5, np.float32)
    grads[::2] = 1e-40
    rows = []
    for flush in (False, True):
        if not torch.set_flush_denormal(flush):
            pytest.skip("this processor cannot flush subnormal numbers")
        try:
            # More than one thread, and a batch that is shared out among them.
            store = connect(table, threads=2)
            store.push("t", keys, grads)
            rows.append(store.pull("t", keys).tobytes())
        finally:
            torch.set_flush_denormal(False)
    assert rows[0] == rows[1]
