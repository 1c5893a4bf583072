"""What training is beside the tables, as a tree of plain values and arrays for a checkpoint.

Dense parameters and buffers, the state of the dense optimizer, and the random generators of torch,
NumPy and Python.
"""

from __future__ import annotations

import random

import numpy as np
import torch

from embery.dense_state import Tree, from_tree, to_tree
from embery.errors import SchemaMismatch


def optimizer_state(optimizer: torch.optim.Optimizer | None) -> Tree | None:
    """Return the state of `optimizer` with its options, or None for none."""
    return None if optimizer is None else dict(to_tree(optimizer.state_dict()))


def check_optimizer(
    optimizer: torch.optim.Optimizer | None, state: Tree | None, where: str
) -> None:
    """Raise `SchemaMismatch` unless `state` fits `optimizer`."""
    mine = [] if optimizer is None else [len(group["params"]) for group in optimizer.param_groups]
    saved = [] if state is None else [len(group["params"]) for group in state["param_groups"]]
    if mine != saved:
        raise SchemaMismatch(
            f"{where} was saved with another dense optimizer: it has parameter groups of {saved} "
            f"tensors, this one of {mine}; build the optimizer as it was"
        )


def load_optimizer(optimizer: torch.optim.Optimizer | None, state: Tree | None) -> None:
    """Set the state of `optimizer`. Requires: `check_optimizer` passed."""
    if optimizer is not None:
        optimizer.load_state_dict(from_tree(state))


def rng_state() -> Tree:
    """Return the state of the global random generators of torch, NumPy and Python."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    version, words, next_gauss = random.getstate()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    return {
        "torch": to_tree(torch.get_rng_state()),
        "cuda": [to_tree(state) for state in devices],
        "numpy": [kind, np.asarray(keys), int(position), int(has_gauss), float(gauss)],
        "python": [version, np.array(words, np.uint64), next_gauss],
    }


def load_rng(state: Tree) -> None:
    """Set the global random generators to what `rng_state` returned."""
    torch.set_rng_state(from_tree(state["torch"]))
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(from_tree(state["cuda"]))
    np.random.set_state(tuple(state["numpy"]))
    version, words, next_gauss = state["python"]
    random.setstate((version, tuple(int(word) for word in words), next_gauss))
