"""Embery: a parameter-server training runtime for sparse recommendation and ads models.

The public names load on first use, so that `import embery` stays cheap and a server never imports
torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embery import data as data
    from embery import init as init
    from embery import optim as optim
    from embery.errors import CheckpointCorrupt as CheckpointCorrupt
    from embery.errors import DeadlineExceeded as DeadlineExceeded
    from embery.errors import EmberyError as EmberyError
    from embery.errors import InvalidArgument as InvalidArgument
    from embery.errors import ResourceExhausted as ResourceExhausted
    from embery.errors import SchemaMismatch as SchemaMismatch
    from embery.errors import TableNotFound as TableNotFound
    from embery.errors import Unauthenticated as Unauthenticated
    from embery.errors import Unavailable as Unavailable
    from embery.jagged import JaggedTensor as JaggedTensor
    from embery.jagged import KeyedJaggedTensor as KeyedJaggedTensor
    from embery.jagged import KeyedTensor as KeyedTensor
    from embery.store import Store as Store
    from embery.store import connect as connect
    from embery.table import LFU as LFU
    from embery.table import LRU as LRU
    from embery.table import TTL as TTL
    from embery.table import MinCount as MinCount
    from embery.table import Probability as Probability
    from embery.table import Table as Table
    from embery.table import Wire as Wire
    from embery.worker.embedding import EmbeddingBagCollection as EmbeddingBagCollection
    from embery.worker.embedding import EmbeddingCollection as EmbeddingCollection
    from embery.worker.embedding import Feature as Feature
    from embery.worker.lookahead import prefetch as prefetch
    from embery.worker.low_rank import PowerSGD as PowerSGD
    from embery.worker.modes import Async as Async
    from embery.worker.modes import Hybrid as Hybrid
    from embery.worker.modes import Sync as Sync
    from embery.worker.trainer import Trainer as Trainer

__version__ = "0.1.0"

_HOME = {
    "embery.errors": (
        "CheckpointCorrupt", "DeadlineExceeded", "EmberyError", "InvalidArgument",
        "ResourceExhausted", "SchemaMismatch", "TableNotFound", "Unauthenticated", "Unavailable",
    ),
    "embery.jagged": ("JaggedTensor", "KeyedJaggedTensor", "KeyedTensor"),
    "embery.store": ("Store", "connect"),
    "embery.table": ("LFU", "LRU", "TTL", "MinCount", "Probability", "Table", "Wire"),
    "embery.worker.embedding": ("EmbeddingBagCollection", "EmbeddingCollection", "Feature"),
    "embery.worker.lookahead": ("prefetch",),
    "embery.worker.low_rank": ("PowerSGD",),
    "embery.worker.modes": ("Async", "Hybrid", "Sync"),
    "embery.worker.trainer": ("Trainer",),
}  # fmt: skip
_MODULES = ("data", "init", "optim")
_WHERE = {name: module for module, names in _HOME.items() for name in names}

__all__ = [*_MODULES, *_WHERE]  # noqa: PLE0604  every entry is a str


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        value: Any = importlib.import_module(f"embery.{name}")
    elif name in _WHERE:
        value = getattr(importlib.import_module(_WHERE[name]), name)
    else:
        raise AttributeError(f"module 'embery' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
