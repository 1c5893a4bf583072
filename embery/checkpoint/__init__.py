"""Checkpoints: tables and training state on disk, whole or not at all.

    saved = checkpoint.write("runs/7", sources, state={"step": 100}, keep=3)
    found = checkpoint.open("runs/7")          # verifies every byte
    checkpoint.load(found, sinks)

The format is docs/formats/checkpoint.md.
"""

from __future__ import annotations

from embery.checkpoint.delta import DeltaBase, base_for
from embery.checkpoint.loader import load, require_same_tables
from embery.checkpoint.manifest import TableEntry
from embery.checkpoint.reader import Checkpoint, newest, open, open_unchecked
from embery.checkpoint.tables import TableSink, TableSource
from embery.checkpoint.writer import WriteOptions, write

__all__ = [
    "Checkpoint",
    "DeltaBase",
    "TableEntry",
    "TableSink",
    "TableSource",
    "WriteOptions",
    "base_for",
    "load",
    "newest",
    "open",
    "open_unchecked",
    "require_same_tables",
    "write",
]
