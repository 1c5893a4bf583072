"""How much of a processor each process of a cluster uses while nothing is to be done.

    python -m benchmarks.idle --seconds 30

A coordinator, servers with a table each, a worker that has connected and computes nothing, and one
that waits in a joint push for it. The figure is the processor time of /proc/PID/stat, user and
system, as a percentage of one processor; a tick is 10 ms, so 30 s tell 0.03 % apart.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np

import embery as em
from benchmarks.measure import emit
from benchmarks.roles import start

TABLE = em.Table("idle", dim=16)
# What starting has left to do is done by then, and heartbeats have met.
SETTLE_S = 3.0
# Longer than any measurement: the worker that waits must not give up.
WAIT_S = 600.0


def cpu_s(pid: int) -> float:
    """Return the user and system seconds that a process has used."""
    # The name in parentheses may hold anything; fields 14 and 15 come after it.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def work(url: str, transport: str, *, pushes: bool) -> None:
    """Connect, say so, and wait: in a joint push for another worker, or for the end of input."""
    with em.connect(url, transport=transport, timeout_s=WAIT_S) as store:
        store.create_table(TABLE)
        store.pull(TABLE.name, np.arange(1000))
        print("ready", flush=True)
        if pushes:
            store.join_group(0, 2)
            store.push(TABLE.name, np.arange(1000), np.ones((1000, TABLE.dim), np.float32))
        sys.stdin.read()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--servers", type=int, default=2)
    parser.add_argument("--transport", default="shm", help="how the workers reach the servers")
    # What `compare` gives to every script of this folder.
    parser.add_argument("--threads", type=int, default=2, help="of each server")
    parser.add_argument("--work", nargs=2, metavar=("URL", "KIND"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work is not None:
        work(args.work[0], args.transport, pushes=args.work[1] == "pushing")
        return
    with ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        found = {}
        found["coordinator"], line = start(
            stack, logs / "coordinator", "coordinator", "--expect-ps", str(args.servers)
        )
        url = line.split()[-1]
        for n in range(args.servers):
            options = ("--coordinator", url, "--drain", "0", "--threads", str(args.threads))
            found[f"ps_{n}"], _ = start(stack, logs / f"ps-{n}", "ps", *options)
        for kind in ("connected", "pushing"):
            options = ("--transport", args.transport, "--work", url, kind)
            found[f"worker_{kind}"], _ = start(
                stack, logs / kind, *options, module="benchmarks.idle"
            )
        time.sleep(SETTLE_S)
        before = {name: cpu_s(pid) for name, pid in found.items()}
        begin = time.monotonic()
        time.sleep(args.seconds)
        took_s = time.monotonic() - begin
        for name, pid in found.items():
            percent = (cpu_s(pid) - before[name]) / took_s * 100
            emit("embery", f"{name}_percent", percent, "%", f"idle, {took_s:.0f} s")


if __name__ == "__main__":
    main()
