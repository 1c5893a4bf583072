"""What training is beside the tables, as a tree of plain values and arrays for a checkpoint.

Dense parameters and buffers, the state of the dense optimizer, and the random generators of torch,
NumPy and Python. A tensor becomes its bytes with its dtype and shape, so every dtype that torch has
keeps its bits. Nothing is pickled.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from embery.errors import SchemaMismatch

Tree = dict[str, Any]
_DTYPE = "torch.dtype"


def to_tree(value: Any) -> Any:
    """Return `value` with its tensors as dicts of dtype, shape and bytes, and mappings as dicts."""
    if isinstance(value, Tensor):
        host = value.detach().cpu().contiguous()
        return {
            _DTYPE: str(host.dtype).removeprefix("torch."),
            "shape": list(host.shape),
            "bytes": host.reshape(-1).view(torch.uint8).numpy().copy(),
        }
    if isinstance(value, Mapping):
        return {key: to_tree(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(to_tree(item) for item in value)
    return value


def from_tree(tree: Any) -> Any:
    """Return what `to_tree` was given; its tensors lie on the CPU."""
    if isinstance(tree, dict) and _DTYPE in tree:
        tensor = torch.empty(tree["shape"], dtype=getattr(torch, tree[_DTYPE]))
        tensor.reshape(-1).view(torch.uint8).copy_(torch.from_numpy(tree["bytes"]))
        return tensor
    if isinstance(tree, dict):
        return {key: from_tree(item) for key, item in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(from_tree(item) for item in tree)
    return tree


def model_state(model: nn.Module) -> Tree:
    """Return the parameters and buffers of `model`."""
    return {name: to_tree(tensor) for name, tensor in model.state_dict().items()}


def optimizer_state(optimizer: torch.optim.Optimizer | None) -> Tree | None:
    """Return the state of `optimizer` with its options, or None for none."""
    return None if optimizer is None else dict(to_tree(optimizer.state_dict()))


def check_model(model: nn.Module, state: Tree, where: str) -> None:
    """Raise `SchemaMismatch` unless `state` is that of a model with these parameters."""
    mine = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    saved = {name: tree["shape"] for name, tree in state.items()}
    for name in [*mine, *saved]:
        if mine.get(name) != saved.get(name):
            raise SchemaMismatch(
                f"{where} was saved by another model: {name!r} has shape {saved.get(name)} there "
                f"and {mine.get(name)} here (None: there is none); build the model as it was"
            )


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


def load_model(model: nn.Module, state: Tree) -> None:
    """Set the parameters and buffers of `model` in place. Requires: `check_model` passed."""
    model.load_state_dict(from_tree(state))


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
