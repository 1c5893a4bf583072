"""A delta over its base is the same model as a whole bundle, and says so when it cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import embery as em
from embery.data.schema import Schema
from embery.errors import CheckpointCorrupt, InvalidArgument
from embery.serving.bundle import Bundle
from embery.serving.export import ExportOptions, export
from embery.serving.follow import Follower, FollowOptions
from embery.serving.manifest import MANIFEST

pytestmark = pytest.mark.timeout(300)

SCHEMA = Schema(label="y", dense=["x"], sparse=["user"])
KEYS = np.arange(1000, dtype=np.uint64)


class Clicks(nn.Module):
    """One table and one layer."""

    def __init__(self, store: em.Store, dtype: Any) -> None:
        super().__init__()
        table = em.Table("user", dim=4, dtype=dtype, initializer=em.init.Uniform(1.0, seed=3))
        self.rows = em.EmbeddingBagCollection(
            tables=[table], features=[em.Feature("user", table="user")], store=store
        )
        self.top = nn.Linear(5, 1)

    def forward(self, batch: em.data.Batch) -> torch.Tensor:
        assert batch.dense is not None
        scores: torch.Tensor = self.top(
            torch.cat([batch.dense, self.rows(batch.sparse).values()], 1)
        )
        return scores


class Run:
    """A training run that saves checkpoints and exports them."""

    def __init__(self, folder: Path, dtype: Any = "float32") -> None:
        self.folder, self.saved = folder / "bundles", folder / "run"
        self.store = em.connect("embedded:")
        self.model = Clicks(self.store, dtype)
        self.store.pull("user", KEYS)

    def change(self, keys: Any) -> None:
        """Take a step on some rows and on the dense part, and save."""
        wanted = np.asarray(keys, np.uint64)
        grads = np.random.default_rng(len(wanted)).normal(size=(len(wanted), 4))
        self.store.push("user", wanted, grads.astype(np.float32))
        with torch.no_grad():
            self.model.top.weight += 0.125
        self.save()

    def save(self) -> None:
        state = {name: value.numpy() for name, value in self.model.state_dict().items()}
        self.store.checkpoint(str(self.saved), state={"dense": state})

    def export(self, name: str, base: Path | None = None, **options: Any) -> Bundle:
        example = em.data.Batch(
            label=torch.zeros(3, 1),
            dense=torch.tensor([[0.5], [1.0], [2.0]]),
            sparse=em.KeyedJaggedTensor(
                ["user"], torch.tensor([1, 500, 10**9]), lengths=torch.ones(3, dtype=torch.int32)
            ),
            index=0,
        )
        return export(
            self.model, self.saved, self.folder / name, example=example, schema=SCHEMA,
            options=ExportOptions(**options), base=base,
        )  # fmt: skip


def scores(bundle: Bundle) -> np.ndarray:
    scorer = bundle.scorer()
    keys = np.concatenate([KEYS, np.array([10**9, 2**63], np.uint64)])
    return scorer.score(scorer.read({"user": keys, "x": np.linspace(-1, 1, len(keys))}))


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_a_delta_over_its_base_is_the_whole_bundle(tmp_path: Path, dtype: str) -> None:
    run = Run(tmp_path, dtype)
    run.save()
    base = run.export("bundle-1")
    run.change([3, 5, 999])
    run.store.pull("user", np.array([5000], np.uint64))
    run.change([7, 5])
    delta, whole = run.export("bundle-2", base.path), run.export("whole-2")
    assert delta.manifest.tables[0].rows == 5
    assert whole.manifest.tables[0].rows == 1001
    assert delta.manifest.model_version == whole.manifest.model_version == 3
    np.testing.assert_array_equal(scores(delta), scores(whole))
    assert np.abs(scores(delta) - scores(base)).max() > 0.01


def test_rows_that_are_gone_read_as_absent_ones(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.save()
    base = run.export("bundle-1")
    run.change(KEYS[:10])
    options = {"min_count": 1}
    delta, whole = run.export("bundle-2", base.path, **options), run.export("whole-2", **options)
    assert whole.manifest.tables[0].rows == 10
    assert delta.manifest.tables[0].rows == 1000
    np.testing.assert_array_equal(scores(delta), scores(whole))


def test_a_delta_for_another_base_is_refused(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.save()
    base = run.export("bundle-1")
    run.change([1])
    delta = run.export("bundle-2", base.path)
    with pytest.raises(InvalidArgument, match="delta itself"):
        run.export("bundle-3", delta.path)
    with pytest.raises(InvalidArgument, match="must lie beside"):
        run.export("elsewhere/bundle-3", base.path)
    base.path.rename(run.folder / "away")
    with pytest.raises(CheckpointCorrupt, match="bundle-1"):
        Bundle.open(delta.path)
    run.export("bundle-1")
    with pytest.raises(CheckpointCorrupt, match="SHA-256"):
        Bundle.open(delta.path)


def test_a_damaged_delta_is_refused(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.save()
    base = run.export("bundle-1")
    run.change([1])
    delta = run.export("bundle-2", base.path)
    rows = delta.path / delta.manifest.tables[0].file.name
    data = bytearray(rows.read_bytes())
    data[-1] ^= 1
    rows.write_bytes(data)
    with pytest.raises(CheckpointCorrupt, match="SHA-256"):
        Bundle.open(delta.path).verify()


def test_a_follower_makes_deltas_then_a_whole_bundle_and_removes_old_ones(tmp_path: Path) -> None:
    run = Run(tmp_path)

    def export_one(checkpoint: Path, dest: Path, base: Path | None) -> Bundle:
        return run.export(dest.name, base)

    def follower() -> Follower:
        return Follower(run.saved, run.folder, export_one, FollowOptions(share_max=0.25, keep=2))

    assert follower().step() is None
    made = []
    for count in (1, 10, 300, 1, 1):
        run.change(KEYS[:count])
        bundle = follower().step()
        assert bundle is not None
        base = bundle.manifest.base
        made.append((bundle.path.name, base and base.folder))
        assert follower().step() is None
    one, two, three, four, five = (f"bundle-{i:08}" for i in range(1, 6))
    # The third changed too much for a fourth over the same base.
    assert made == [(one, None), (two, one), (three, one), (four, None), (five, four)]
    assert sorted(path.name for path in run.folder.iterdir() if path.is_dir()) == [four, five]


def test_what_current_names_is_kept_with_its_base(tmp_path: Path) -> None:
    run = Run(tmp_path)

    def export_one(checkpoint: Path, dest: Path, base: Path | None) -> Bundle:
        return run.export(dest.name, base)

    follower = Follower(run.saved, run.folder, export_one, FollowOptions(share_max=0.0, keep=1))
    for step in range(4):
        run.change(KEYS[: step + 1])
        assert follower.step() is not None
        if step == 1:
            (run.folder / "CURRENT").write_text("bundle-00000002\n")
    left = {path.name for path in run.folder.iterdir() if path.is_dir()}
    members = json.loads((run.folder / "bundle-00000002" / MANIFEST).read_text())
    assert members["base"]["folder"] == "bundle-00000001"
    assert left >= {"bundle-00000001", "bundle-00000002", "bundle-00000004"}
