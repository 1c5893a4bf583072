"""Dense state survives as plain values and bytes, whatever its dtype."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

import embery as em
from embery.dense_state import from_tree, to_tree
from embery.worker.training_state import load_rng, rng_state

DTYPES = [
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn,
    torch.int8, torch.uint8, torch.int64, torch.bool, torch.complex64,
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3)], ids=str)
def test_a_tensor_keeps_dtype_shape_and_bits_in_a_checkpoint(
    dtype: torch.dtype, shape: tuple[int, ...], tmp_path: Path
) -> None:
    tensor = torch.randint(0, 2, shape).to(dtype)
    with em.connect("embedded:") as store:
        store.checkpoint(tmp_path, state={"tensor": to_tree(tensor)})
        state = store.restore(tmp_path).state
    back = from_tree(state["tensor"])
    assert back.dtype == dtype
    assert back.shape == tensor.shape
    assert torch.equal(
        back.reshape(-1).view(torch.uint8), tensor.reshape(-1).contiguous().view(torch.uint8)
    )


def test_nested_values_come_back_as_they_were() -> None:
    value = {"groups": [{"lr": 0.1, "betas": (0.9, 0.99), "params": [0, 1]}], 3: None}
    assert from_tree(to_tree(value)) == value
    strided = torch.arange(6).view(2, 3).t()
    assert torch.equal(from_tree(to_tree(strided)), strided)


def test_random_generators_go_on_where_they_were() -> None:
    def draw() -> tuple[object, ...]:
        return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random(), random.gauss()

    draw()
    state = rng_state()
    expected = draw()
    draw()
    load_rng(state)
    assert draw() == expected
