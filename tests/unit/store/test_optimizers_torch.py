"""Each optimizer against torch's own, on each row's own sequence of gradients.

torch runs in float64, so the difference is the store's float32 rounding alone: a few units in the
last place a step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import embery as em

STEPS = 60
KEYS = np.array([0, 1, 7, 2**32, 2**63, 2**64 - 1, 12345, 99, 100, 101, 102, 103], np.uint64)
DIMS = (1, 3, 16, 64, 100)
# Relative to the size of the parts that are added: 60 steps of about 1e-7 each.
RTOL, ATOL = 1e-5, 2e-6

Batch = tuple[NDArray[np.uint64], NDArray[np.float32]]


def batches(dim: int, seed: int = 0) -> list[Batch]:
    """Return batches of 20 out of 12 keys, hence with duplicates; some gradients are 0 or small."""
    rng = np.random.default_rng(seed)
    made = []
    for step in range(STEPS):
        keys = KEYS[np.minimum(rng.geometric(0.2, 20) - 1, len(KEYS) - 1)]
        grads = rng.standard_normal((20, dim)).astype(np.float32)
        grads *= np.float32((1.0, 0.01, 3.0)[step % 3])
        grads[rng.random(20) < 0.1] = 0
        made.append((keys, grads))
    return made


def summed(keys: NDArray[np.uint64], grads: NDArray[np.float32]) -> dict[int, Any]:
    """Return the gradient of each distinct key, duplicates added in order, in float32."""
    sums: dict[int, Any] = {}
    for key, grad in zip(keys.tolist(), grads, strict=True):
        sums[key] = sums[key] + grad if key in sums else grad
    return sums


def assert_close(actual: Any, expected: Any, where: str) -> None:
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=RTOL, atol=ATOL, err_msg=where)


def sgd(table: em.optim.SGD, rows: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(rows, lr=table.lr, weight_decay=table.weight_decay)


def momentum(table: em.optim.Momentum, rows: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        rows, lr=table.lr, momentum=table.momentum, weight_decay=table.weight_decay
    )


def adagrad(table: em.optim.Adagrad, rows: Any) -> torch.optim.Optimizer:
    return torch.optim.Adagrad(
        rows,
        lr=table.lr,
        eps=table.eps,
        initial_accumulator_value=table.initial_accumulator,
        weight_decay=table.weight_decay,
    )


def adam(table: em.optim.Adam, rows: Any) -> torch.optim.Optimizer:
    kind = torch.optim.AdamW if isinstance(table, em.optim.AdamW) else torch.optim.Adam
    return kind(
        rows,
        lr=table.lr,
        betas=(table.beta1, table.beta2),
        eps=table.eps,
        weight_decay=table.weight_decay,
    )


STATE = {"m": ("momentum_buffer", "exp_avg"), "s": ("sum",), "v": ("exp_avg_sq",)}


def torch_state(optimizer: torch.optim.Optimizer, row: Any, part: str) -> Any:
    state = optimizer.state[row]
    return next(state[name] for name in STATE[part] if name in state).numpy()


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize(
    ("optimizer", "reference"),
    [
        (em.optim.SGD(lr=0.1), sgd),
        (em.optim.SGD(lr=0.1, weight_decay=0.05), sgd),
        (em.optim.Momentum(lr=0.02), momentum),
        (em.optim.Momentum(lr=0.02, momentum=0.5, weight_decay=0.1), momentum),
        (em.optim.Adagrad(lr=0.1), adagrad),
        (em.optim.Adagrad(lr=0.1, eps=1e-3, initial_accumulator=0.1, weight_decay=0.1), adagrad),
        (em.optim.Adam(lr=0.01), adam),
        (em.optim.Adam(lr=0.02, beta1=0.5, beta2=0.9, eps=1e-4, weight_decay=0.1), adam),
        (em.optim.AdamW(lr=0.01), adam),
        (em.optim.AdamW(lr=0.02, weight_decay=0.2, eps=1e-6), adam),
        (em.optim.AdamW(lr=0.02, weight_decay=0.0), adam),
    ],
    ids=lambda value: str(value) if isinstance(value, em.optim.Optimizer) else value.__name__,
)
def test_each_row_moves_as_torch_moves_it_alone(
    connect: Any,
    dim: int,
    optimizer: em.optim.Optimizer,
    reference: Callable[[Any, Any], torch.optim.Optimizer],
) -> None:
    table = em.Table("t", dim=dim, optimizer=optimizer, initializer=em.init.Normal(0.3, seed=5))
    store = connect(table)
    first = torch.from_numpy(store.pull("t", KEYS)).double()
    rows = {key: torch.nn.Parameter(first[i].clone()) for i, key in enumerate(KEYS.tolist())}
    torch_optimizer = reference(optimizer, list(rows.values()))
    counts = dict.fromkeys(rows, 0)
    for keys, grads in batches(dim):
        store.push("t", keys, grads)
        # torch passes over a parameter without a gradient: its own steps are all that it counts.
        torch_optimizer.zero_grad(set_to_none=True)
        for key, grad in summed(keys, grads).items():
            rows[key].grad = torch.from_numpy(grad).double()
            counts[key] += 1
        torch_optimizer.step()
    assert max(counts.values()) >= 50
    pulled = store.pull("t", KEYS, train=False)
    for i, (key, row) in enumerate(rows.items()):
        assert_close(pulled[i], row.detach().numpy(), f"row {key}")
        shown = store.inspect("t", key)
        assert shown is not None
        assert shown["updates"] == counts[key]
        assert shown["values"] == pulled[i].tolist()
        for part, values in shown["state"].items():
            if counts[key]:
                assert_close(values, torch_state(torch_optimizer, row, part), f"{part} of {key}")


@pytest.mark.parametrize("dim", DIMS)
def test_lazy_adam_moves_as_sparse_adam_on_a_dense_parameter(connect: Any, dim: int) -> None:
    # torch adds eps before the correction, which shows where it is near a gradient: here it is not.
    optimizer = em.optim.LazyAdam(lr=0.01, beta1=0.8, beta2=0.95, eps=1e-12)
    table = em.Table("t", dim=dim, optimizer=optimizer, initializer=em.init.Normal(0.3, seed=5))
    store = connect(table)
    weight = torch.nn.Parameter(torch.from_numpy(store.pull("t", KEYS)).double())
    sparse_adam = torch.optim.SparseAdam([weight], lr=0.01, betas=(0.8, 0.95), eps=1e-12)
    place = {key: i for i, key in enumerate(KEYS.tolist())}
    for keys, grads in batches(dim, seed=1):
        store.push("t", keys, grads)
        sums = summed(keys, grads)
        weight.grad = torch.sparse_coo_tensor(
            torch.tensor([[place[key] for key in sums]]),
            torch.from_numpy(np.stack(list(sums.values()))).double(),
            weight.shape,
            check_invariants=True,
        ).coalesce()
        sparse_adam.step()
    assert_close(store.pull("t", KEYS), weight.detach().numpy(), "rows")
    state = sparse_adam.state[weight]
    for i, key in enumerate(KEYS.tolist()):
        shown = store.inspect("t", key)
        assert shown is not None
        assert_close(shown["state"]["m"], state["exp_avg"][i].numpy(), f"m of {key}")
        assert_close(shown["state"]["v"], state["exp_avg_sq"][i].numpy(), f"v of {key}")


def test_adam_corrects_a_late_row_for_its_own_age_and_lazy_adam_for_the_tables(
    connect: Any,
) -> None:
    """After 100 pushes to another row, Adam's first step is lr; LazyAdam's is about sqrt(0.1) lr.

    From the formulas: m = (1 - b1) g, v = (1 - b2) g^2, over corrections at t = 1 and T = 101.
    """
    one = np.ones((1, 1), np.float32)
    steps = {}
    for kind in (em.optim.Adam, em.optim.LazyAdam):
        table = em.Table("t", dim=1, optimizer=kind(lr=0.01), initializer=em.init.Zeros())
        store = connect(table)
        for _ in range(100):
            store.push("t", [1], one)
        store.push("t", [2], one)
        steps[kind] = float(store.pull("t", [2])[0, 0])
    late = -0.01 * 0.1 / (1 - 0.9**101) / ((0.001**0.5) / (1 - 0.999**101) ** 0.5)
    assert steps[em.optim.Adam] == pytest.approx(-0.01, rel=1e-6)
    assert steps[em.optim.LazyAdam] == pytest.approx(late, rel=1e-5)
