"""W2 on a cluster on this machine: one server, and one or two workers in `Sync` mode.

    python -m benchmarks.cluster_w2 --workers 2

Every worker has batches of 2048 rows of its own, so that a step of N workers is one of N x 2048, as
in the peers. Workers share the processors: they share out the threads.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from statistics import median

import torch
from torch import nn

import embery as em
from benchmarks import workloads
from benchmarks.measure import emit
from benchmarks.w2 import OPTIMIZERS, WARM_STEPS, Dense, batches, embeddings
from benchmarks.workloads import W2_BATCH_ROWS
from embery.worker.group import WorkerGroup
from embery.worker.together import joint_pushes


def work(args: argparse.Namespace) -> None:
    """Train as one of the workers; the first prints the rate of all."""
    threads = max(1, args.threads // args.workers)
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    group = WorkerGroup.of_run()
    with em.connect(threads=threads) as store:
        emb = embeddings(store, OPTIMIZERS[args.optimizer](lr=0.01))
        net, loss_fn = Dense(), nn.BCEWithLogitsLoss()
        group.begin_alike(net)
        store.join_group(group.rank, group.world_size)
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
        step_s = []
        steps = (WARM_STEPS + args.steps) * group.world_size
        start = time.perf_counter()
        for batch in islice(batches(args.data, steps), group.rank, None, group.world_size):
            assert batch.dense is not None
            loss = loss_fn(net(batch.dense, emb(batch.sparse).values()), batch.label)
            optimizer.zero_grad()
            (loss / group.world_size).backward()
            group.reduce(optimizer, [])
            optimizer.step()
            for push in joint_pushes([emb]):
                push.apply()
            now = time.perf_counter()
            step_s.append(now - start)
            start = now
        if group.leads:
            emit(
                f"embery_{group.world_size}_workers",
                "train_samples_per_s",
                group.world_size * W2_BATCH_ROWS / median(step_s[WARM_STEPS:]),
                "samples/s",
                f"W2 batch=2048/worker dim=16 servers=1 workers={args.workers} sync",
                optimizer=args.optimizer,
                transport=store.stats()["servers"]["0"]["transport"],
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--transport", default="auto")
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="adagrad")
    parser.add_argument("--threads", type=int, default=2, help="of all workers together")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--data", type=Path, default=workloads.default_folder())
    args = parser.parse_args()
    if "EMBERY_STORE" in os.environ:
        work(args)
        return
    options = ["--ps", "1", "--workers", str(args.workers), "--transport", args.transport]
    command = [sys.executable, "-m", "embery.cli.main", "run", *options, __file__, *sys.argv[1:]]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    # A line comes with the name of its role before it.
    for line in done.stdout.splitlines():
        _, _, printed = line.partition(" | ")
        if printed.startswith("{"):
            print(printed)


if __name__ == "__main__":
    main()
