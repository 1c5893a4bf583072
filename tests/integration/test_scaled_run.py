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
from embery.cli.membership import wait_until
from embery.rpc.client import CoordinatorClient

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
    # Who has no slots left hears so with its next heartbeat, and leaves.
    coordinator = CoordinatorClient(store.url)
    gone = lambda status: sum(s.state != "left" for s in status.routing.servers.values()) - 1
    assert wait_until(coordinator, gone, 60) == 0
    coordinator.close()
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
    assert done.stdout.count("has given its slots to others") == 2
