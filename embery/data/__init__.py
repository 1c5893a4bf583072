"""Data: what the columns mean, and readers that turn files into batches."""

from __future__ import annotations

from embery.data.criteo import CriteoTSV, criteo_schema
from embery.data.dataset import Batch, Dataset
from embery.data.parquet import Parquet
from embery.data.schema import Dense, Label, Schema, Sparse, SparseList

__all__ = [
    "Batch",
    "CriteoTSV",
    "Dataset",
    "Dense",
    "Label",
    "Parquet",
    "Schema",
    "Sparse",
    "SparseList",
    "criteo_schema",
]
