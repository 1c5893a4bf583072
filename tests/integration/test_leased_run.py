"""`embery run` with workers that do not wait for each other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embery.data.clicklog import ClickLog

ROOT = Path(__file__).parents[2]
ROWS = 2_000


def embery_run(*arguments: object, cwd: Path) -> list[Any]:
    """Run; return what the workers printed after RESULT, which all have to come to."""
    done = subprocess.run(
        command(*arguments),
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if "RESULT" in line]
    return [json.loads(line.partition("RESULT")[2]) for line in lines]


# Every read of an item adds 1 to its row: oracle 1 of docs/design, conservation.
LOOP = """
import json
import numpy as np
import embery as em
from embery.worker.group import WorkerGroup
from embery.worker.leasing import LeasedBatches

schema = em.data.Schema(label="label", sparse=["item"])
data = em.data.Parquet("data.parquet", schema=schema, batch_size=64, shuffle=True)
group = WorkerGroup.of_run()
with em.connect() as store:
    zeros, sgd = em.init.Zeros(), em.optim.SGD(lr=1.0)
    table = em.Table("item", dim=1, initializer=zeros, optimizer=sgd)
    feature = em.Feature("item", table="item")
    emb = em.EmbeddingBagCollection(tables=[table], features=[feature], store=store)
    taken = 0
    for epoch in range(2):
        with LeasedBatches.of_run(data, store, epoch=epoch) as batches:
            for batch in em.prefetch(batches, emb):
                (-emb(batch.sparse)["item"]).sum().backward()
                emb.step()
                batches.commit()
                taken += 1
        group.barrier()
    counts = store.pull("item", np.arange(2_000), train=False)
    print("RESULT", json.dumps([taken, counts.min().item(), counts.max().item()]))
"""


@pytest.mark.timeout(180)
def test_a_loop_of_ones_own_reads_every_row_once_an_epoch(tmp_path: Path) -> None:
    columns = {"label": np.zeros(ROWS, np.float32), "item": np.arange(ROWS)}
    pq.write_table(pa.table(columns), tmp_path / "data.parquet", row_group_size=150)
    (tmp_path / "loop.py").write_text(LOOP)
    found = embery_run("--ps", 2, "--workers", 3, "loop.py", cwd=tmp_path)
    # 13 row groups of 3 batches, and one of a single batch, twice.
    assert sum(taken for taken, *_ in found) == 2 * (13 * 3 + 1)
    assert [counts for _, *counts in found] == [[2.0, 2.0]] * 3


TRAIN = """
import hashlib, json, os, sys
import numpy as np
import torch
from torch import nn
import embery as em
from embery.data.clicklog import ClickLog

arguments = dict(argument.split("=") for argument in sys.argv[1:])
mode = {"sync": em.Sync(), "async": em.Async(staleness=3)}[arguments.pop("mode")]
options = {name: json.loads(value) for name, value in arguments.items()}
schema = ClickLog().schema
data = em.data.Parquet("train.parquet", schema=schema, batch_size=128, shuffle=True)
valid = em.data.Parquet("valid.parquet", schema=schema, batch_size=1000)
torch.manual_seed(int(os.environ.get("EMBERY_RANK", 0)))


class Model(nn.Module):
    def __init__(self, store):
        super().__init__()
        names = schema.keys
        optimizer, initializer = em.optim.Adagrad(lr=0.05), em.init.Normal(0.05)
        self.emb = em.EmbeddingBagCollection(
            tables=[
                em.Table(n, dim=8, optimizer=optimizer, initializer=initializer) for n in names
            ],
            features=[em.Feature(name, table=name) for name in names],
            store=store,
        )
        wide = 8 * len(names) + len(schema.dense)
        self.net = nn.Sequential(nn.Linear(wide, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, batch):
        return self.net(torch.cat([self.emb(batch.sparse).values(), batch.dense], 1))[:, 0]


with em.connect() as store:
    model = Model(store)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.002)
    loss = nn.functional.binary_cross_entropy_with_logits
    trainer = em.Trainer(model, loss, optimizer, store=store, mode=mode)
    result = trainer.fit(data, epochs=2, valid=valid, **options)
    digest = hashlib.sha256(b"".join(v.numpy().tobytes() for v in model.state_dict().values()))
    summary = [result.history, result.steps, result.samples, digest.hexdigest()]
    print("RESULT", json.dumps([*summary, result.staleness_seen]))
"""
TRAIN_ROWS, VALID_ROWS = 20_000, 5_000


@pytest.fixture(scope="module")
def clicks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a training script and its data."""
    folder = tmp_path_factory.mktemp("clicks")
    log = ClickLog()
    for name, begin, end in (("train", 0, TRAIN_ROWS), ("valid", TRAIN_ROWS, 25_000)):
        table = pa.Table.from_batches([log.records(begin, end)])
        pq.write_table(table, folder / f"{name}.parquet", row_group_size=1_024)
    (folder / "train.py").write_text(TRAIN)
    return folder


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "embery.cli.main", "run", *map(str, arguments)]


@pytest.mark.timeout(400)
def test_workers_that_do_not_wait_learn_what_one_worker_learns(clicks: Path) -> None:
    (alone,) = embery_run("train.py", "mode=sync", cwd=clicks)
    found = embery_run("--ps", 2, "--workers", 3, "train.py", "mode=async", cwd=clicks)
    assert len(found) == 3
    history, _, samples, *_ = found[0]
    # The workers agree on everything, the bits of the dense parameters included.
    assert found == [found[0]] * 3
    assert samples == 2 * TRAIN_ROWS
    assert 1 <= found[0][-1] <= 3, "the bound of staleness"
    assert history[-1]["valid/auc"] == pytest.approx(alone[0][-1]["valid/auc"], abs=0.01)
    assert history[-1]["valid/logloss"] == pytest.approx(alone[0][-1]["valid/logloss"], abs=0.01)
    assert history[-1]["train/loss"] < history[0]["train/loss"]


@pytest.mark.timeout(400)
def test_an_epoch_goes_on_with_other_workers_where_it_was_saved(clicks: Path) -> None:
    folder = 'checkpoint="saved"', "resume=true"
    first = embery_run(
        "--workers", 2, "train.py", "mode=async", "max_steps=60", "checkpoint_every=25", *folder,
        cwd=clicks,
    )  # fmt: skip
    assert first[0] == first[1]
    _, steps, samples, *_ = first[0]
    assert 60 <= steps <= 61
    assert samples <= steps * 128 < TRAIN_ROWS
    with pytest.raises(AssertionError, match="saved by several workers"):
        embery_run("--workers", 2, "train.py", "mode=sync", *folder, cwd=clicks)
    rest = embery_run("--ps", 2, "--workers", 3, "train.py", "mode=async", *folder, cwd=clicks)
    assert rest == [rest[0]] * 3
    # Every row was learnt from once an epoch, whichever workers read it.
    assert rest[0][2] == 2 * TRAIN_ROWS
    assert [record["epoch"] for record in rest[0][0]] == [0, 1]
    assert rest[0][0][1]["valid/auc"] > 0.7


@pytest.mark.timeout(300)
def test_ctrl_c_ends_workers_that_do_not_wait_and_loses_no_row(clicks: Path) -> None:
    script = TRAIN.replace(
        "        return self.net", "        print('forward')\n        return self.net"
    )
    (clicks / "told.py").write_text(script)
    folder = 'checkpoint="interrupted"', "resume=true"
    with subprocess.Popen(
        command("--workers", 2, "told.py", "mode=async", *folder),
        cwd=clicks,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            seen = [line for line, _ in zip(process.stdout, range(40), strict=False)]
            assert "forward" in seen[-1]
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 1, "".join(seen) + out
    assert out.count("]: KeyboardInterrupt\n") == 2
    assert list((clicks / "interrupted").glob("checkpoint-*")), out
    (found, _) = embery_run("--workers", 2, "train.py", "mode=async", *folder, cwd=clicks)
    assert found[2] == 2 * TRAIN_ROWS


# Rank 1 gives no more batches until rank 0 is as far ahead as it may be; then it looks again and
# again whether rank 0 goes further.
BLOCKED = TRAIN.replace(
    "data = em.data.Parquet(",
    """
from embery.rpc.client import CoordinatorClient


class Blocking(em.data.Parquet):
    def piece(self, number, **where):
        for count, batch in enumerate(super().piece(number, **where)):
            if count == 2 and os.environ["EMBERY_RANK"] == "1" and not blocked:
                blocked.append(True)
                self.wait_for_the_other()
            yield batch

    def wait_for_the_other(self):
        client = CoordinatorClient(os.environ["EMBERY_STORE"])
        leads = []
        while leads.count(4) < 50:
            clocks = {w.rank: w.progress.clock for w in client.status().workers}
            leads.append((clocks[0] or 0) - (clocks[1] or 0))
            if max(leads) > 4:
                break
        print("LEAD", max(leads))
        client.close()


blocked = []
data = Blocking(""",
)


@pytest.mark.timeout(300)
def test_a_worker_waits_for_the_slowest_once_it_is_as_far_ahead_as_it_may_be(
    clicks: Path,
) -> None:
    (clicks / "blocked.py").write_text(BLOCKED.replace("epochs=2", "epochs=1"))
    done = subprocess.run(
        command("--workers", 2, "blocked.py", "mode=async"),
        cwd=clicks,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # A batch is begun while at most 3 lie between it and the slowest: 4 are done when it waits.
    assert "| LEAD 4\n" in done.stdout
    (one, _) = [
        json.loads(line.partition("RESULT")[2])
        for line in done.stdout.splitlines()
        if "RESULT" in line
    ]
    assert one[2] == TRAIN_ROWS
    assert one[-1] == 3
