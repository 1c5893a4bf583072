"""How many bytes a row costs beyond its values and optimizer state.

Fills a table and looks twice: at the growth of this process's resident memory, which nothing
escapes, and at the bytes the store itself reports. Start it afresh for each figure.
"""

from __future__ import annotations

import argparse

from benchmarks.measure import emit, rss_bytes
from benchmarks.w1 import FILL_KEYS, TABLE, filled_store

FLOAT_BYTES = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    # A small store first: what imports, threads and the buffers of a batch cost is not a row's.
    filled_store(FILL_KEYS, args.dim, args.threads).close()
    before = rss_bytes()
    with filled_store(args.rows, args.dim, args.threads) as store:
        grown = rss_bytes() - before
        reported = store.stats()["tables"][TABLE]
        state_floats = store.tables()[TABLE].optimizer.state_floats(args.dim)
    if reported["rows"] != args.rows:
        raise SystemExit(f"memory: the table holds {reported['rows']} rows, expected {args.rows}")
    payload = (args.dim + state_floats) * FLOAT_BYTES
    workload = f"memory rows={args.rows} dim={args.dim} rowwise_adagrad"
    for metric, total in (("resident", grown), ("reported", reported["bytes"])):
        overhead = total / args.rows - payload
        name = f"{metric}_overhead_bytes_per_row"
        emit("embery", name, overhead, "B", workload, payload_bytes=payload)


if __name__ == "__main__":
    main()
