"""Training traffic on a network of 1 Gbit/s, by the encoding of the wire; needs root and iproute2.

    python -m benchmarks.slow_network --rate 1gbit --steps 30

Server and worker are in network namespaces of their own, joined by two pairs of virtual interfaces:
`grads`, held to the rate by a token bucket at both ends, and `samples`. The worker fetches a
Parquet file over `samples`, then pulls and pushes its keys through `grads`. Bytes are those that
the interfaces counted. The namespaces are gone at the end, whatever happens.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import embery as em
from benchmarks.measure import emit_rate, log
from embery.data import Parquet, Schema

ROWS, DIM, BATCH = 200_000, 64, 20_000
SERVER, WORKER = f"embery-s{os.getpid()}", f"embery-w{os.getpid()}"
GRADS, SAMPLES = ("10.99.0.1", "10.99.0.2"), ("10.99.1.1", "10.99.1.2")
WIRES = {
    "float32": em.Wire(),
    "float16": em.Wire(rows="float16", grads="float16"),
    "int8": em.Wire(rows="int8", grads="int8"),
}
TIMEOUT_S = 60.0


def sh(*command: object) -> None:
    """Run a command; its failure is ours."""
    subprocess.run([str(part) for part in command], check=True)


@contextmanager
def namespaces(rate: str) -> Iterator[None]:
    """Join two namespaces by both pairs of interfaces."""
    with ExitStack() as made:
        for name in (SERVER, WORKER):
            sh("ip", "netns", "add", name)
            made.callback(subprocess.run, ["ip", "netns", "del", name], check=False)
            sh("ip", "-n", name, "link", "set", "lo", "up")
        for link, addresses in (("grads", GRADS), ("samples", SAMPLES)):
            sh("ip", "-n", SERVER, "link", "add", link, "type", "veth",
               "peer", "name", link, "netns", WORKER)  # fmt: skip
            for name, address in zip((SERVER, WORKER), addresses, strict=True):
                sh("ip", "-n", name, "address", "add", f"{address}/24", "dev", link)
                sh("ip", "-n", name, "link", "set", link, "up")
        for name in (SERVER, WORKER):
            sh("ip", "netns", "exec", name, "tc", "qdisc", "add", "dev", "grads", "root",
               "tbf", "rate", rate, "burst", "256kb", "latency", "50ms")  # fmt: skip
        yield


@contextmanager
def process(namespace: str, *arguments: str, ready: str | None = None) -> Iterator[str]:
    """Run a Python program in a namespace; yield the line by which it is ready."""
    command = ["ip", "netns", "exec", namespace, sys.executable, "-u", *arguments]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    try:
        line = running.stdout.readline().strip()
        if ready is not None and ready not in line:
            raise SystemExit(f"slow_network: {' '.join(arguments)} printed {line!r}")
        yield line
    finally:
        running.terminate()
        running.wait(TIMEOUT_S)


def counted(link: str) -> int:
    """Return the bytes that an interface of this namespace has sent and received."""
    folder = Path("/sys/class/net", link, "statistics")
    return sum(int((folder / f"{way}_bytes").read_text()) for way in ("rx", "tx"))


def work(url: str, samples: str, steps: int) -> None:
    """Fetch the samples and train on them with each encoding; print figures and counters."""
    before = {link: counted(link) for link in ("grads", "samples")}
    with tempfile.NamedTemporaryFile(suffix=".parquet") as file:
        with urllib.request.urlopen(samples, timeout=TIMEOUT_S) as source:
            size = file.write(source.read())
            file.flush()
        data = Parquet(file.name, schema=Schema(label="y", sparse=["u"]), batch_size=BATCH)
        keys = [batch.sparse["u"].values().numpy() for batch in data if batch.sparse is not None]
    moved = {link: counted(link) - count for link, count in before.items()}
    print(json.dumps({"sample_file_bytes": size, "bytes_by_interface": moved}), flush=True)
    for name, wire in WIRES.items():
        with em.connect(url, transport="tcp", timeout_s=TIMEOUT_S) as store:
            table = em.Table(
                name, dim=DIM, optimizer=em.optim.RowwiseAdagrad(lr=0.01),
                initializer=em.init.Uniform(0.1), wire=wire,
            )  # fmt: skip
            store.create_table(table)
            for of_batch in keys:
                store.pull(name, of_batch)
            grads = np.full((BATCH, DIM), 1e-3, np.float32)
            step_s = []
            first = {link: counted(link) for link in before}
            for step in range(steps):
                of_batch = keys[step % len(keys)]
                start = time.perf_counter()
                store.pull(name, of_batch)
                store.push(name, of_batch, grads[: len(of_batch)])
                step_s.append(time.perf_counter() - start)
            used = {link: (counted(link) - count) // steps for link, count in first.items()}
        workload = f"{BATCH} distinct rows of dim {DIM} a step, pull and push"
        emit_rate(
            f"wire_{name}", "cycle_rows_per_s", BATCH, step_s, workload,
            grads_bytes_per_step=used["grads"], samples_bytes_per_step=used["samples"],
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", default="1gbit", help="as tc reads it")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(*args.work, args.steps)
        return
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        users = np.random.default_rng(0).permutation(ROWS).astype(np.int64)
        table: dict[str, Any] = {"u": users, "y": (users % 2).astype(np.float32)}
        pq.write_table(pa.table(table), Path(folder, "samples.parquet"))
        stack.enter_context(namespaces(args.rate))
        stack.enter_context(
            process(SERVER, "-m", "http.server", "8000", "--bind", SAMPLES[0], "--directory",
                    folder, ready="Serving")
        )  # fmt: skip
        role = ("-m", "embery.cli.main")
        line = stack.enter_context(
            process(SERVER, *role, "coordinator", "--host", GRADS[0], "--insecure", ready="ready")
        )
        url = line.split()[-1]
        stack.enter_context(
            process(SERVER, *role, "ps", "--coordinator", url, "--host", GRADS[0], "--insecure",
                    "--grad-interface", "grads", "--drain", "0", ready="ready")
        )  # fmt: skip
        log(f"server and worker are joined by {args.rate}")
        command = [sys.executable, "-m", "benchmarks.slow_network", "--steps", str(args.steps)]
        command += ["--work", url, f"http://{SAMPLES[0]}:8000/samples.parquet"]
        environment = {**os.environ, "EMBERY_GRAD_INTERFACE": "grads", "no_proxy": "*"}
        subprocess.run(["ip", "netns", "exec", WORKER, *command], check=True, env=environment)


if __name__ == "__main__":
    main()
