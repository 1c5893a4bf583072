"""Serve one table of dim 4 over TCP in a process of its own until standard input ends."""

from __future__ import annotations

import sys

import numpy as np

import embery as em
from embery import _native


def main() -> None:
    number, secret = int(sys.argv[1]), sys.argv[2].encode()
    store = _native.Store(1, "auto")
    server = _native.Server(store, server=number, secret=secret, threads=2)
    table = em.Table("t", dim=4, optimizer=em.optim.SGD(lr=1.0), initializer=em.init.Zeros())
    server.add_table(_native.table_salt("t"), store.create_table(table.to_dict()))
    nobody = np.full(4096, 2**16 - 1, np.uint16)
    server.set_routing(1, np.full(4096, number, np.uint16), nobody, np.ones(4096, np.uint64))
    print(server.listen_tcp("127.0.0.1", 0), flush=True)
    sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    main()
