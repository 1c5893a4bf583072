from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from embery.data.block import Block
from embery.data.schema import Schema, SparseList
from embery.errors import CheckpointCorrupt
from embery.serving.requests import RequestReader
from embery.serving.role import InferenceServer, ServeOptions
from embery.serving.scorer import Features, Output

SCHEMA = Schema(label="y", dense=["x"], sparse=["user", SparseList("clicked", max_length=3)])


class Adding:
    """A model whose score of a sample is x, plus its keys, plus 1000 times the version."""

    outputs = (Output("score", "logits"),)

    def __init__(self, folder: Path) -> None:
        text = (folder / "manifest.json").read_text()
        if not text.isdecimal():
            raise CheckpointCorrupt(f"{folder}: expected a number, got {text!r}")
        self.version = int(text)
        self._reader = RequestReader(SCHEMA)
        self.inputs = self._reader.inputs

    def read(self, features: Features) -> Block:
        return self._reader.read(features)

    def score(self, block: Block) -> NDArray[np.float32]:
        total = block.dense[:, 0] + 1000 * self.version
        for bags in block.sparse:
            rows = np.repeat(np.arange(len(block)), bags.lengths())
            total = total + np.bincount(rows, bags.values, minlength=len(block))
        return total.astype(np.float32)


PutVersion = Callable[..., None]


@pytest.fixture
def put_version() -> PutVersion:
    """Return what puts a version into a folder of versions, whole at once."""

    def put(models: Path, version: int, text: str | None = None) -> None:
        making = models / f".making-{version}"
        making.mkdir(parents=True)
        (making / "manifest.json").write_text(str(version) if text is None else text)
        making.rename(models / f"bundle-{version:08}")

    return put


@pytest.fixture
def models(tmp_path: Path, put_version: PutVersion) -> Path:
    """Return a folder with version 1 of the model."""
    put_version(tmp_path / "ctr", 1)
    return tmp_path / "ctr"


@pytest.fixture
def load() -> Callable[[Path], Any]:
    """Return what opens a version."""
    return Adding


@pytest.fixture
def serve(models: Path) -> Iterator[Callable[..., InferenceServer]]:
    """Return what serves `models` in this process, with options; all of it ends after the test."""
    with ExitStack() as servers:

        def serve_one(load: Callable[[Path], Any] = Adding, **options: Any) -> InferenceServer:
            return servers.enter_context(
                InferenceServer(ServeOptions(str(models), **options), load)
            )

        yield serve_one
