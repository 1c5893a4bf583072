"""`embery scale` and `embery drain`: servers are started and end while a script pushes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SCRIPT = '''
"""Pushes while it has itself scaled, and checks what it has pushed."""
import json, subprocess, sys
import numpy as np
import embery as em

def embery(*arguments):
    command = [sys.executable, "-m", "embery.cli.main", *arguments, "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

with em.connect() as store:
    table = em.Table("t", dim=2, optimizer=em.optim.SGD(lr=1.0), initializer=em.init.Zeros())
    store.create_table(table)
    keys = np.arange(5000, dtype=np.uint64)
    pushes = 0
    for arguments, owners in [
        (["scale", "--ps", "3"], ["0", "1", "2"]),
        (["drain", "0"], ["1", "2"]),
        (["scale", "--ps", "1"], ["1"]),
    ]:
        command = embery(*arguments, "--store", store.url)
        while command.poll() is None:
            store.push("t", keys, np.ones((5000, 2), np.float32))
            pushes += 1
        assert command.returncode == 0, arguments
        assert sorted(store.stats()["servers"]) == owners, store.stats()["servers"]
    assert (store.pull("t", keys, train=False) == -pushes).all()
    assert store.stats()["tables"]["t"]["step"] == pushes
    print("pushed", pushes)
'''


@pytest.mark.timeout(300)
def test_a_run_is_scaled_while_it_pushes(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "-m", "embery.cli.main", "run", "--ps", "1", str(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "worker 0    | pushed" in done.stdout
    # The second has, too, but may be ended with the run before a heartbeat tells it so.
    assert "ps 0        | drained: ps 0 has given its slots to others" in done.stdout
