"""A client that may be killed or frozen: it pushes ones to the ledger, and prints what it did.

python -m tests.chaos.client URL SEED prints "attempted N" before push N and "acknowledged N" after
it, until SIGTERM.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import numpy as np

import embery as em
from tests.integration.cluster.pushing import LEDGER, WAIT_S, ledger_keys

# A push adds to so many rows, which lie in as many slots and so on several servers.
ROWS_A_PUSH = 16


def rows_of(seed: int, number: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """Return the keys of a push."""
    return ledger_keys(seed, np.arange(ROWS_A_PUSH, dtype=np.uint64) + number * ROWS_A_PUSH)


class Client:
    """A process that pushes. What it says is read until it ends, also by a kill."""

    def __init__(self, url: str, seed: int) -> None:
        self.seed = seed
        self.attempted = self.acknowledged = 0
        self._heard = threading.Condition()
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-m", "tests.chaos.client", url, str(seed)],
            stdout=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            what, number = line.split()
            with self._heard:
                setattr(self, what, int(number) + 1)
                self._heard.notify_all()
        with self._heard:
            self._heard.notify_all()

    def wait_more(self, count: int) -> None:
        """Wait until so many more pushes were acknowledged."""
        with self._heard:
            wanted = self.acknowledged + count
            self._heard.wait_for(
                lambda: self.acknowledged >= wanted or not self._reader.is_alive(), WAIT_S
            )
            assert self.acknowledged >= wanted, f"client {self.seed} does not get on"

    def end(self, number: signal.Signals) -> int:
        """End it by a signal; return its exit code."""
        self.process.send_signal(number)
        self.process.send_signal(signal.SIGCONT)
        code = self.process.wait(WAIT_S)
        self._reader.join(WAIT_S)
        return code

    def assert_counted(self, store: em.Store) -> None:
        """Assert that acknowledged pushes count once and one under way at most once."""
        for number in range(self.attempted):
            counts = store.pull("ledger", rows_of(self.seed, number), train=False)[:, 0]
            least = int(number < self.acknowledged)
            assert ((counts >= least) & (counts <= 1) & (counts == counts.astype(int))).all(), (
                f"push {number} of client {self.seed} counts {counts}; {self.acknowledged} were "
                f"acknowledged, {self.attempted} attempted"
            )


def main(url: str, seed: int) -> None:
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    ones = np.full((ROWS_A_PUSH, 1), -1, np.float32)
    with em.connect(url, timeout_s=WAIT_S) as store:
        store.create_table(LEDGER)
        number = 0
        while not stopping.is_set():
            print("attempted", number)
            store.push("ledger", rows_of(seed, number), ones)
            print("acknowledged", number)
            number += 1


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
