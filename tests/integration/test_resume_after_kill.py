"""A run that is killed and resumed in a new process ends with the bits of one that was not."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embery import checkpoint

# Rows 300, batches of 32, 3 epochs: 30 steps. The kill comes in the middle of step 17, five steps
# after the checkpoint of step 12, in the second epoch.
SCRIPT = """
import hashlib, json, os, signal, sys
import numpy as np, torch
from torch import nn
import embery as em

data, folder, kill_at = sys.argv[1], sys.argv[2], int(sys.argv[3])
torch.set_num_threads(1)
torch.manual_seed(5)
store = em.connect("embedded:", threads=int(sys.argv[4]), clock=lambda: 1e6)
table = em.Table("item", dim=6, optimizer=em.optim.Adam(lr=0.05), admission=em.MinCount(2),
                 eviction=em.LRU(max_rows=60))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        features = [em.Feature(name, table="item", pooling="mean") for name in ("user", "item")]
        self.emb = em.EmbeddingBagCollection(tables=[table], features=features, store=store)
        self.top = nn.Sequential(nn.BatchNorm1d(14), nn.Linear(14, 8), nn.ReLU(), nn.Dropout(0.3),
                                 nn.Linear(8, 1)).to(torch.bfloat16)

    def forward(self, batch):
        x = torch.cat([batch.dense, self.emb(batch.sparse).values()], 1).bfloat16()
        return self.top(x)[:, 0].float()


steps = 0


def loss_fn(output, label):
    global steps
    steps += 1
    if steps == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    return nn.functional.binary_cross_entropy_with_logits(output, label)


model = Model()
trainer = em.Trainer(model, loss_fn, torch.optim.Adam(model.parameters(), lr=0.01), store=store)
schema = em.data.Schema(label="label", dense=["x", "y"], sparse=["user", "item"])
train = em.data.Parquet(data, schema=schema, batch_size=32, shuffle=True, seed=3)
result = trainer.fit(train, epochs=3, valid=em.data.Parquet(data, schema=schema, batch_size=64),
                     checkpoint=folder, checkpoint_every=6, resume=True,
                     look_ahead=sys.argv[5] == "ahead")

digest = hashlib.sha256()
for key in range(200):
    digest.update(repr(store.inspect("item", key)).encode())
counters = store.stats()["tables"]["item"]
counters.pop("bytes")  # Capacity, not content.
digest.update(repr(counters).encode())
for tensor in model.state_dict().values():
    digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
for state in trainer.dense_optimizer.state_dict()["state"].values():
    for tensor in state.values():
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
digest.update(torch.get_rng_state().numpy().tobytes())
print(json.dumps({"steps": steps, "digest": digest.hexdigest(), "history": result.history}))
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    random = np.random.default_rng(1)
    user, item = random.integers(0, 100, 300), random.integers(100, 200, 300)
    table = pa.table(
        {
            "label": ((user + item) % 3 == 0).astype(np.float32),
            "x": random.normal(size=300).astype(np.float32),
            "y": random.normal(size=300).astype(np.float32),
            "user": user,
            "item": item,
        }
    )
    path = tmp_path_factory.mktemp("data") / "train.parquet"
    pq.write_table(table, path, row_group_size=50)
    return path


def run(
    data: Path, folder: Path, *, kill_at: int = 0, threads: int = 1, ahead: bool = True
) -> subprocess.CompletedProcess[str]:
    how = "ahead" if ahead else "plain"
    command = [sys.executable, "-c", SCRIPT, data, folder, str(kill_at), str(threads), how]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.timeout(600)
def test_a_killed_run_resumes_to_the_same_bits(data: Path, tmp_path: Path) -> None:
    whole = run(data, tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    expected = json.loads(whole.stdout)
    assert expected["steps"] == 30

    killed = run(data, tmp_path / "killed", kill_at=17)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    # The newest may still have been on its way to the disk.
    saved = checkpoint.open(tmp_path / "killed").state["progress"]["position"]["step"]
    assert saved in (6, 10, 12)
    # Resumed with two threads and without look-ahead: neither may show in the bits.
    resumed = run(data, tmp_path / "killed", threads=2, ahead=False)
    assert resumed.returncode == 0, resumed.stderr
    found = json.loads(resumed.stdout)
    assert found["steps"] == 30 - saved
    assert found["digest"] == expected["digest"]
    assert found["history"] == expected["history"]
