"""The dense part of a model as a tree of plain values and arrays for a checkpoint, and back.

A tensor becomes its bytes with its dtype and shape, so every dtype that torch has keeps its bits.
Nothing is pickled.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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


def load_model(model: nn.Module, state: Tree) -> None:
    """Set the parameters and buffers of `model` in place. Requires: `check_model` passed."""
    model.load_state_dict(from_tree(state))
