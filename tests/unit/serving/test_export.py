"""A bundle scores as training did, whatever goes into it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import embery as em
from embery.data.block import concatenate
from embery.serving.bundle import Bundle, difference


@pytest.mark.parametrize("rows", [1, 2, 50])
def test_scores_are_those_of_training(trained: Any, bundle: Bundle, rows: int) -> None:
    block = trained.block(rows, seed=rows)
    scores = bundle.scorer().score(block)
    assert scores.shape == (rows,)
    assert difference(scores, trained.scores(block)) < 1e-6


def test_scores_do_not_depend_on_who_else_is_in_the_batch(trained: Any, bundle: Bundle) -> None:
    scorer, parts = bundle.scorer(), [trained.block(n, seed=n) for n in (1, 3, 9)]
    together = scorer.score(concatenate(parts))
    apart = np.concatenate([scorer.score(part) for part in parts])
    np.testing.assert_allclose(together, apart, atol=1e-6)


def test_no_samples_have_no_scores(trained: Any, bundle: Bundle) -> None:
    assert bundle.scorer().score(trained.block(2, seed=0).slice(0, 0)).shape == (0,)


def test_the_torch_program_is_the_model_too(bundle: Bundle) -> None:
    program = torch.export.load(bundle.path / bundle.manifest.program.name).module()
    scorer, examples = bundle.scorer(), bundle.examples()
    feeds = scorer.embeddings.feeds(scorer.read(examples.features))
    scores = program(*(torch.from_numpy(feed) for feed in feeds.values()))
    np.testing.assert_allclose(scores.detach(), examples.scores, atol=1e-6)


def test_the_model_is_left_as_it_was(trained: Any, tmp_path: Path) -> None:
    before = {name: tensor.clone() for name, tensor in trained.model.state_dict().items()}
    trained.model.train()
    with torch.no_grad():
        trained.model.head.bias.add_(1.0)
    bundle = trained.export(tmp_path / "b")
    assert trained.model.training
    assert trained.model.bags.training
    assert trained.model.bags.store is trained.store
    torch.testing.assert_close(trained.model.head.bias, before["head.bias"] + 1.0)
    trained.model.load_state_dict(before)
    # What was exported are the numbers of the checkpoint, not those of the model.
    block = trained.block(20, seed=3)
    expected = trained.scores(block)
    assert difference(bundle.scorer().score(block), expected) < 1e-6


def test_optimizer_state_is_left_out(trained: Any, bundle: Bundle) -> None:
    entry = next(table for table in bundle.manifest.tables if table.name == "item")
    index_bytes = 3 * 4096
    assert entry.file.bytes < entry.rows * (6 * 2 + 4) + index_bytes + 4096


@pytest.mark.parametrize(("dtype", "gap"), [("bfloat16", 0.05), ("int8", 0.05), ("float32", 1e-6)])
def test_rows_may_be_stored_otherwise(trained: Any, tmp_path: Path, dtype: str, gap: float) -> None:
    bundle = trained.export(tmp_path / "b", dtype=dtype)
    assert {table.dtype for table in bundle.manifest.tables} == {dtype}
    block = trained.block(50, seed=1)
    expected = trained.scores(block)
    assert difference(bundle.scorer().score(block), expected) < gap


def test_rows_are_left_out_by_count_and_age(trained: Any, tmp_path: Path) -> None:
    keys = np.arange(100, dtype=np.uint64)
    counts = np.array([(trained.store.inspect("item", int(key)) or {}).get("updates", 0)
                       for key in keys])  # fmt: skip
    assert set(counts) == {4, 5}
    frequent = trained.export(tmp_path / "frequent", min_count=5)
    rows = frequent.tables()["item"].lookup(keys)
    np.testing.assert_array_equal(rows.any(1), counts >= 5)
    assert frequent.manifest.filters.min_count == 5
    old = trained.export(tmp_path / "old", max_age_s=10**6)
    assert old.manifest.tables[0].rows == trained.store.stats()["tables"]["item"]["rows"]


def test_a_model_version_is_the_checkpoints_number_unless_given(
    trained: Any, bundle: Bundle, tmp_path: Path
) -> None:
    assert bundle.scorer().version == 1
    assert trained.export(tmp_path / "b", model_version=70).scorer().version == 70


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("dtype", "float64"), ("min_count", -1), ("max_age_s", 1.5), ("model_version", 0),
        ("list_length_max", 0), ("output", "a b"), ("meaning", "odds"),
    ],
)  # fmt: skip
def test_a_wrong_option_is_named_and_nothing_made(
    trained: Any, tmp_path: Path, option: str, value: Any
) -> None:
    with pytest.raises(em.InvalidArgument, match=option):
        trained.export(tmp_path / "b", **{option: value})
    assert not list(tmp_path.iterdir())


def test_what_exists_is_not_replaced(trained: Any, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    with pytest.raises(em.InvalidArgument, match="exists already"):
        trained.export(tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def _does_something_else(kind: str, batch: em.data.Batch, out: Tensor) -> Tensor:
    """Return what no program can be made of, or not of these inputs."""
    if kind == "branches on a value":
        return out if float(out.sum()) > 0 else -out
    if kind == "reads keys":
        return out + batch.sparse.values().float().mean()
    if kind == "depends on the number of samples":
        return out * len(out)
    if kind == "returns two scores":
        return torch.cat([out, out], 1)
    return out + torch.rand(out.shape)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("branches on a value", "torch.export cannot"),
        ("reads keys", "outside its embedding modules"),
        ("depends on the number of samples", "torch.export cannot"),
        ("returns two scores", "one score a sample"),
        ("draws random numbers", "scores otherwise than the model"),
    ],
)
def test_a_model_that_cannot_be_cut_is_refused(
    trained: Any, tmp_path: Path, kind: str, message: str
) -> None:
    class Wrong(type(trained.model)):  # type: ignore[misc]
        def forward(self, batch: em.data.Batch) -> Tensor:
            return _does_something_else(kind, batch, super().forward(batch))

    model = Wrong(em.connect("embedded:"))
    with pytest.raises(em.InvalidArgument, match=message):
        replace(trained, model=model).export(tmp_path / "b")
    assert not list(tmp_path.iterdir())


def test_a_model_without_embeddings_is_refused(trained: Any, tmp_path: Path) -> None:
    for model in (nn.Linear(1, 1), trained.model.bags):
        with pytest.raises(em.InvalidArgument, match="EmbeddingBagCollection"):
            replace(trained, model=model).export(tmp_path / "b")


def test_a_checkpoint_of_another_model_is_refused(trained: Any, tmp_path: Path) -> None:
    wider = type(trained.model)(em.connect("embedded:"))
    wider.head = nn.Linear(17, 2)
    with pytest.raises(em.SchemaMismatch, match=r"head\.weight"):
        replace(trained, model=wider).export(tmp_path / "b")
    store = em.connect("embedded:")
    store.create_table(em.Table("user", dim=3))
    other = store.checkpoint(tmp_path / "c")
    with pytest.raises(em.SchemaMismatch, match="'item'"):
        replace(trained, checkpoint=other).export(tmp_path / "b")


def test_scoring_needs_no_torch(bundle: Bundle) -> None:
    program = f"""
import sys
sys.modules["torch"] = None
from embery.serving.bundle import Bundle
bundle = Bundle.open({str(bundle.path)!r}, verify=True)
scorer, examples = bundle.scorer(), bundle.examples()
print(len(scorer.score(scorer.read(examples.features))))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "8\n"
