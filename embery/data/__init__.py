"""Data: what the columns mean, and readers that turn files into batches.

The names load on first use: a key can be computed without torch, and the module `synthetic` runs as
a program.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embery.data.clicklog import ClickLog as ClickLog
    from embery.data.criteo import CriteoTSV as CriteoTSV
    from embery.data.criteo import criteo_schema as criteo_schema
    from embery.data.dataset import Batch as Batch
    from embery.data.dataset import Dataset as Dataset
    from embery.data.parquet import Parquet as Parquet
    from embery.data.schema import Dense as Dense
    from embery.data.schema import Label as Label
    from embery.data.schema import Schema as Schema
    from embery.data.schema import Sparse as Sparse
    from embery.data.schema import SparseList as SparseList
    from embery.data.synthetic import Synthetic as Synthetic
    from embery.data.synthetic import optimum as optimum

_HOME = {
    "clicklog": ("ClickLog",),
    "criteo": ("CriteoTSV", "criteo_schema"),
    "dataset": ("Batch", "Dataset"),
    "parquet": ("Parquet",),
    "schema": ("Dense", "Label", "Schema", "Sparse", "SparseList"),
    "synthetic": ("Synthetic", "optimum"),
}
_WHERE = {name: f"embery.data.{module}" for module, names in _HOME.items() for name in names}

__all__ = sorted(_WHERE)  # noqa: PLE0605  every entry is a str


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'embery.data' has no attribute {name!r}")
    value = getattr(importlib.import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
