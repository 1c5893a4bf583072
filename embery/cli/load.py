"""Pushes rows of the table of `embery bench` without pause: the load of `--pushers`.

    python -m embery.cli.load URL TRANSPORT TABLE ROWS

No command: `embery bench` starts it as a process of its own, so that its calls and the measured
ones share servers and network, and no interpreter. It ends with its standard input.
"""

from __future__ import annotations

import sys
import threading

import numpy as np

PUSH_ROWS = 10_000


def main() -> None:
    """Push until the end of the input; print a line after the first push."""
    from embery.store import connect  # noqa: PLC0415  not before the module is run

    url, transport, table, rows = sys.argv[1:]
    watch = threading.Thread(target=sys.stdin.read, daemon=True)
    watch.start()
    with connect(url, transport=transport) as store:
        dim = store.tables()[table].dim
        keys = np.random.default_rng().integers(0, int(rows), PUSH_ROWS, dtype=np.uint64)
        grads = np.full((PUSH_ROWS, dim), 1e-3, np.float32)
        store.push(table, keys, grads)
        print("pushing", flush=True)
        while watch.is_alive():
            store.push(table, keys, grads)


if __name__ == "__main__":
    main()
