"""W1 on a server in another process: lookup and update over tcp or shared memory.

The same load as `benchmarks.w1`: every key exists before the clock starts, a step pulls 106,496
rows and pushes as many gradients, and duplicates count as rows. CPU is that of worker and server
together; `wire_bytes_per_row` is what travels for a row, both ways, in the encodings of `--rows-as`
and `--grads-as`. Start it on two processors (`taskset -c 0,1`) to compare with figures taken so.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import embery as em
from benchmarks import workloads
from benchmarks.measure import cpu_s, emit, emit_rate
from embery import _native
from embery.table import DTYPES

TABLE = em.Table(
    "w1",
    dim=workloads.W1_DIM,
    optimizer=em.optim.RowwiseAdagrad(lr=0.01),
    initializer=em.init.Uniform(0.1),
)
SECRET = b"benchmark on loopback"
SLOTS = 4096
TIMEOUT_S = 60.0
WARM_STEPS = 5


def serve(threads: int) -> None:
    """Serve one table; print the port, and then the CPU seconds used at every line of input."""
    store = _native.Store(threads, "auto")
    server = _native.Server(store, server=0, secret=SECRET, threads=threads)
    server.add_table(_native.table_salt(TABLE.name), store.create_table(TABLE.to_dict()))
    server.set_routing(1, np.zeros(SLOTS, np.uint16), np.ones(SLOTS, np.uint64))
    print(server.listen_tcp("127.0.0.1", 0), server.listen_shm(), flush=True)
    for _ in sys.stdin:
        print(cpu_s(), flush=True)
    server.stop()


class Worker:
    """A client, and the server process that it uses."""

    def __init__(self, threads: int, transport: str, wire: em.Wire) -> None:
        command = [sys.executable, "-m", "benchmarks.cluster_w1", "--serve", str(threads)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.requests, self.answers = self.process.stdin, self.process.stdout
        self.client = _native.Client(os.getpid(), threads)
        port, socket = self.answers.readline().split()
        if transport == "shm":
            self.client.connect_shm(0, socket, SECRET, TIMEOUT_S)
        else:
            self.client.connect_tcp(0, "127.0.0.1", int(port), SECRET, TIMEOUT_S)
        self.system = f"embery-{transport}"
        self.client.set_routing(1, np.zeros(SLOTS, np.uint16))
        self.salts, self.dims = [_native.table_salt(TABLE.name)], [TABLE.dim]
        self.client.set_wire(
            self.salts[0], TABLE.dim, wire.rows, wire.grads, wire.residual_rows_max
        )
        self.sequence = 0

    def cpu_s(self) -> float:
        """Return the CPU seconds of both processes."""
        self.requests.write("\n")
        self.requests.flush()
        return cpu_s() + float(self.answers.readline())

    def wire_bytes(self) -> int:
        """Return the bytes of all messages so far."""
        stats = self.client.stats()
        return int(stats["bytes_sent"] + stats["bytes_received"])

    def pull(self, keys: Any, out: Any = None) -> Any:
        out = _native.empty_rows(len(keys), TABLE.dim) if out is None else out
        self.client.pull(self.salts, self.dims, [keys], [out], None, "train", 0, TIMEOUT_S)
        return out

    def push(self, keys: Any, grads: Any) -> None:
        self.sequence += 1
        self.client.push(
            self.salts, self.dims, [keys], [grads], sequence=self.sequence,
            round=0, rank=0, world=1, now_s=0, timeout_s=TIMEOUT_S,
        )  # fmt: skip

    def close(self) -> None:
        self.requests.close()
        self.process.wait(TIMEOUT_S)


def measure(worker: Worker, batches: list[Any], steps: int, workload: str) -> None:
    """Pull and push `steps` batches, and print the rates."""
    n = workloads.W1_KEYS
    grads = np.full((n, TABLE.dim), 1e-3, np.float32)
    pull_s, push_s = [], []
    cpu_before_s, bytes_before = 0.0, 0
    for step in range(WARM_STEPS + steps):
        if step == WARM_STEPS:
            cpu_before_s, bytes_before = worker.cpu_s(), worker.wire_bytes()
        keys = batches[step % len(batches)]
        start = time.perf_counter()
        # The rows stay referenced until the next pull returns, as a model would keep them.
        rows = worker.pull(keys)  # noqa: F841
        pulled = time.perf_counter()
        worker.push(keys, grads)
        if step >= WARM_STEPS:
            pull_s.append(pulled - start)
            push_s.append(time.perf_counter() - pulled)
    cpu_steps_s = worker.cpu_s() - cpu_before_s
    bytes_per_row = (worker.wire_bytes() - bytes_before) / steps / n
    both_s = [a + b for a, b in zip(pull_s, push_s, strict=True)]
    emit_rate(worker.system, "lookup_rows_per_s", n, pull_s, workload)
    emit_rate(worker.system, "update_rows_per_s", n, push_s, workload)
    emit_rate(
        worker.system, "cycle_rows_per_s", n, both_s, workload,
        wire_bytes_per_row=round(bytes_per_row, 1),
    )  # fmt: skip
    emit(worker.system, "cpu_us_per_row", cpu_steps_s / steps / n * 1e6, "us", workload)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--transport", choices=["shm", "tcp"], default="tcp")
    parser.add_argument("--rows-as", choices=DTYPES, default="float32", help="encoding of rows")
    parser.add_argument("--grads-as", choices=DTYPES, default="float32", help="of gradients")
    parser.add_argument("--no-feedback", action="store_true", help="keep no residuals")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=2, help="of the server")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--data", type=Path, default=workloads.default_folder())
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve is not None:
        serve(args.serve)
        return

    batches = [keys.astype(np.uint64) for keys in workloads.w1_keys(args.data, args.rows)]
    residual_rows_max = 0 if args.no_feedback else 2 * args.rows
    wire = em.Wire(args.rows_as, args.grads_as, residual_rows_max)
    worker = Worker(args.threads, args.transport, wire)
    out = np.empty((workloads.W1_KEYS, TABLE.dim), np.float32)
    for begin in range(0, args.rows, len(out)):
        keys = np.arange(begin, min(begin + len(out), args.rows), dtype=np.uint64)
        worker.pull(keys, out[: len(keys)])
    workload = f"W1 rows={args.rows} dim={TABLE.dim} batch=4096x26 server_threads={args.threads}"
    if (wire.rows, wire.grads) != ("float32", "float32"):
        workload += f" rows={wire.rows} grads={wire.grads} residuals={residual_rows_max}"
    measure(worker, batches, args.steps, workload)
    worker.close()


if __name__ == "__main__":
    main()
