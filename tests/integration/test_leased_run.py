"""`embery run` with workers that do not wait for each other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parents[2]
ROWS = 2_000


def embery_run(*arguments: object, cwd: Path) -> list[Any]:
    """Run; return what the workers printed after RESULT, which all have to come to."""
    done = subprocess.run(
        [sys.executable, "-m", "embery.cli.main", "run", *map(str, arguments)],
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
