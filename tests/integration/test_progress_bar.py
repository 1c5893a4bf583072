"""`embery run` on a terminal: the bar of rank 0."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

TRAIN = """
import torch
import embery as em
from embery.data.synthetic import Synthetic

data = Synthetic(2_000, batch_size=50)


class Model(torch.nn.Module):
    def __init__(self, store):
        super().__init__()
        tables = [em.Table("user", dim=1)]
        features = [em.Feature("user", table="user")]
        self.emb = em.EmbeddingBagCollection(tables=tables, features=features, store=store)

    def forward(self, batch):
        return self.emb(batch.sparse)["user"][:, 0]


with em.connect() as store:
    loss = torch.nn.functional.binary_cross_entropy_with_logits
    em.Trainer(Model(store), loss, store=store).fit(data, log_every=5)
    print("finished")
"""


def written_to_terminal(command: list[str], cwd: Path) -> str:
    """Run a command on a terminal; return all that it wrote there."""
    read_end, write_end = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=write_end,
        stderr=write_end,
    ) as process:  # fmt: skip
        os.close(write_end)
        parts = []
        with suppress(OSError):  # How the other end's closing shows on Linux.
            while part := os.read(read_end, 1 << 16):
                parts.append(part)
        os.close(read_end)
        assert process.wait(60) == 0, b"".join(parts)
    return b"".join(parts).decode()


@pytest.mark.timeout(180)
def test_the_bar_of_rank_0_is_one_line_that_changes(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(TRAIN)
    run = [sys.executable, "-m", "embery.cli.main", "run", "--workers", "2", "train.py"]
    written = written_to_terminal(run, tmp_path)
    drawn = re.findall(r"worker (\d) +\| epoch 0: +(\d+)%", written)
    assert {rank for rank, _ in drawn} == {"0"}
    shares = [int(share) for _, share in drawn]
    assert shares == sorted(shares)
    assert shares[-1] == 100
    assert len(set(shares)) >= 2
    # Only the last one stays.
    lasting = [line.rpartition("\r\x1b[K")[2] for line in written.replace("\r\n", "\n").split("\n")]
    assert sum("epoch 0:" in line for line in lasting) == 1
    assert sum(line.endswith("| finished") for line in lasting) == 2
