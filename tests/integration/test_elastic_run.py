"""Workers come, go and die in a run of `embery run --elastic`, and every batch counts once.

Oracle 1 and 2 of docs/design: every application of a row's gradient adds exactly 1 to the row, so
that the table is a ledger of how often each sample was learnt from; each dense step takes 1 from a
dense parameter.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embery.rpc.client import ClusterStatus, CoordinatorClient

ROOT = Path(__file__).parents[2]
# 1, 2 or 3 workers have equal shares, and each takes the same float32 of a gradient.
BATCH = 48
BATCHES, BATCHES_A_PIECE = 900, 4
EPOCHS = 2
TIMEOUT_S = 150.0

SCRIPT = """
import json, os, sys, time
from pathlib import Path
import numpy as np
import torch
from torch import nn
import embery as em

print("PID", os.getpid(), flush=True)
print("STORE", os.environ["EMBERY_STORE"], flush=True)
mode = {"sync": em.Sync(), "hybrid": em.Hybrid(staleness=3), "async": em.Async(staleness=3)}
BATCH, BATCHES, PIECE, EPOCHS = map(int, sys.argv[2:])


class Paced(em.data.Parquet):
    '''Yields a batch when the test has let so many go.'''

    def batches(self, *, epoch=0, start=0):
        for number, batch in enumerate(super().batches(epoch=epoch, start=start), start):
            self.wait_for(epoch * BATCHES + number)
            yield batch

    def piece(self, number, *, epoch=0, start=0):
        for count, batch in enumerate(super().piece(number, epoch=epoch, start=start), start):
            self.wait_for(epoch * BATCHES + number * PIECE + count)
            yield batch

    def wait_for(self, number):
        while int(Path("allowed").read_text() or 0) < number:
            time.sleep(0.01)


class Model(nn.Module):
    def __init__(self, store):
        super().__init__()
        table = em.Table("item", dim=1, optimizer=em.optim.SGD(lr=float(BATCH)),
                         initializer=em.init.Zeros())
        self.emb = em.EmbeddingBagCollection(
            tables=[table], features=[em.Feature("item", table="item")], store=store)
        self.steps = nn.Parameter(torch.zeros(1))

    def forward(self, batch):
        return self.steps - self.emb(batch.sparse)["item"][:, 0]


with em.connect() as store:
    schema = em.data.Schema(label="label", sparse=["item"])
    data = Paced("data.parquet", schema=schema, batch_size=BATCH)
    model = Model(store)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    trainer = em.Trainer(
        model, lambda output, _: output.mean(), optimizer, store=store, mode=mode[sys.argv[1]])
    result = trainer.fit(data, epochs=EPOCHS)
    counts = store.pull("item", np.arange(BATCH * BATCHES), train=False)
    found = [counts.min().item(), counts.max().item(), model.steps.item(), result.steps]
    print("RESULT", json.dumps(found), flush=True)
"""


class Run:
    """A run of the script; its lines are read in a thread."""

    def __init__(self, folder: Path, *arguments: object) -> None:
        self._folder, self._pause = folder, threading.Event()
        self.allow(0)
        command = [sys.executable, "-m", "embery.cli.main", "run", "--elastic"]
        sizes = BATCH, BATCHES, BATCHES_A_PIECE, EPOCHS
        self.process = subprocess.Popen(
            [*command, *map(str, (*arguments, *sizes))],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(iter(self.process.stdout.readline, ""))

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def allow(self, batches: int) -> None:
        """Let workers read so many batches."""
        (self._folder / "next").write_text(str(batches))
        (self._folder / "next").replace(self._folder / "allowed")
        self.allowed = batches

    def until(self, condition: Callable[[], Any]) -> Any:
        """Let batches go until `condition` holds, a few at a time; return what it returned."""
        deadline = time.monotonic() + TIMEOUT_S
        while not (found := condition()):
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            self.allow(min(self.allowed + 1, BATCHES * EPOCHS - 200))
            self._pause.wait(0.1)
        return found

    def find(self, pattern: str) -> str | None:
        found = re.search(pattern, self.output)
        return found[1] if found else None

    def pid_of(self, worker: int) -> int:
        return int(self.until(lambda: self.find(rf"worker {worker} +\| PID (\d+)")))

    def finish(self) -> list[list[float]]:
        """Let all batches go; return the results of the workers that are there at the end."""
        self.allow(BATCHES * EPOCHS)
        assert self.process.wait(TIMEOUT_S) == 0, self.output
        self._thread.join(10)
        results = [line.partition("RESULT")[2] for line in self.lines if "RESULT" in line]
        return [json.loads(text) for text in results]

    def close(self) -> None:
        self.process.kill()
        self._thread.join(10)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    rows = BATCH * BATCHES
    columns = {"label": np.zeros(rows, np.float32), "item": np.arange(rows)}
    group = BATCH * BATCHES_A_PIECE
    pq.write_table(pa.table(columns), tmp_path / "data.parquet", row_group_size=group)
    (tmp_path / "train.py").write_text(SCRIPT)
    runs: list[Run] = []

    def begin(*arguments: object) -> Run:
        runs.append(Run(tmp_path, *arguments))
        return runs[-1]

    yield begin
    for run in runs:
        run.close()


@contextmanager
def coordinator_of(run: Run) -> Iterator[CoordinatorClient]:
    url = run.until(lambda: run.find(r"STORE (embery://\S+)"))
    with closing(CoordinatorClient(url)) as client:
        yield client


def ranks(status: ClusterStatus) -> list[int]:
    """Return the workers of the present group, by the numbers that the launcher gave them."""
    by_client = {worker.client: worker.rank for worker in status.workers}
    return sorted(by_client[client] for client in status.group)


def is_once(results: list[list[float]], workers: int) -> bool:
    """Return whether every sample was learnt from once an epoch, and every dense step taken."""
    expected = [EPOCHS, EPOCHS, pytest.approx(-EPOCHS * BATCHES, rel=1e-4)]
    return len(results) == workers and all(found[:3] == expected for found in results)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("mode", ["sync", "hybrid", "async"])
def test_workers_go_from_one_to_three_to_two_and_one_is_killed(
    start: Callable[..., Run], mode: str
) -> None:
    run = start("--ps", 2, "--workers", 1, "--restarts", 1, "train.py", mode)
    with coordinator_of(run) as client:
        for wanted in (3, 2):
            client.scale(workers=wanted)
            run.until(lambda wanted=wanted: len(client.status().group) == wanted)
        first, second = ranks(client.status())
        os.kill(run.pid_of(first), signal.SIGKILL)
        run.until(lambda: ranks(client.status()) == [second, 3])
    results = run.finish()
    assert is_once(results, 2), (results, run.output)
    assert "dismissed: fewer workers are wanted" in run.output


@pytest.mark.timeout(400)
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_worker_that_was_stopped_and_goes_on_is_fenced(
    start: Callable[..., Run], mode: str
) -> None:
    run = start("--ps", 1, "--workers", 2, "train.py", mode)
    with coordinator_of(run) as client:
        run.until(lambda: ranks(client.status()) == [0, 1])
        run.until(lambda: all(w.progress.batches > 2 for w in client.status().workers))
        pid = run.pid_of(1)
        os.kill(pid, signal.SIGSTOP)
        try:
            run.until(lambda: {w.rank: w.state for w in client.status().workers}[1] == "lost")
            if mode == "sync":
                run.until(lambda: ranks(client.status()) == [0])
        finally:
            os.kill(pid, signal.SIGCONT)
        run.until(lambda: "must end" in run.output)
    results = run.finish()
    assert is_once(results, 1), (results, run.output)
