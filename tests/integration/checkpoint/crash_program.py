"""Dies by SIGKILL at every file system call of a checkpoint in turn, and looks at what is left.

A program of its own, run by test_crash.py, because it forks. Usage: crash_program.py FOLDER. Prints
a line of JSON a death.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

import embery as em
from embery import checkpoint

CHANGES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate"}


class Rows:
    """A small table whose rows all hold one number."""

    def __init__(self, number: int) -> None:
        self.definition = em.Table("item", dim=1, optimizer=em.optim.SGD()).to_dict()
        self.value_bytes, self.state_floats, self.row_count = 4, 0, 4096
        self.number = number

    def export_rows(self, slot_begin: int, slot_end: int, since: Any) -> dict[str, Any]:
        key = np.arange(slot_begin, slot_end, dtype=np.uint64) << np.uint64(52)
        u32 = np.full(key.size, self.number, np.uint32)
        return {
            "key": key,
            "count": u32,
            "step": u32,
            "time_s": u32,
            "lsn": key,
            "values": np.full((key.size, 1), self.number, np.float32).view(np.uint8),
            "state": np.empty((key.size, 0), np.float32),
        }

    def export_state(self, since: Any) -> Any:
        return {"number": self.number}


def save(dest: Path, number: int) -> None:
    options = checkpoint.WriteOptions(group_slots=2048, threads=2)
    checkpoint.write(dest, [Rows(number)], state={"number": number}, keep=1, options=options)


def contents(dest: Path) -> int:
    """Return the number that everything in the newest checkpoint holds."""
    found = checkpoint.open(dest)
    rows = [columns["count"] for columns in found.rows("item")]
    numbers = {int(n) for part in rows for n in np.unique(part)}
    numbers |= {found.state["number"], found.table_state("item")["number"]}
    assert len(numbers) == 1, f"a mixture of checkpoints: {numbers}"
    assert sum(part.size for part in rows) == 4096
    return numbers.pop()


def die_at(step: int, dest: Path) -> None:
    """Kill this process at file system call number `step` from now on."""
    lock, seen = threading.Lock(), [0]

    def count(what: str) -> None:
        with lock:
            seen[0] += 1
            if seen[0] == step:
                os.write(sys.stdout.fileno(), f"{what}\n".encode())
                os.kill(os.getpid(), signal.SIGKILL)

    def counted(call: Any) -> Any:
        def counted_call(descriptor: int, *rest: Any) -> Any:
            if descriptor != sys.stdout.fileno():
                count(call.__name__)
            return call(descriptor, *rest)

        return counted_call

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event in CHANGES and str(dest) in str(arguments[0]):
            count(event)

    os.write, os.fsync = counted(os.write), counted(os.fsync)
    sys.addaudithook(audit)


def survive(step: int, dest: Path) -> dict[str, Any] | None:
    """Die at `step` of saving 2 over 1; return what was found, or None if it did not die."""
    shutil.rmtree(dest, ignore_errors=True)
    save(dest, 1)
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(write_end, sys.stdout.fileno())
        die_at(step, dest)
        save(dest, 2)
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        what = pipe.read().strip()
    _, status = os.waitpid(child, 0)
    left = contents(dest)
    if os.waitstatus_to_exitcode(status) == 0:
        assert left == 2
        return None
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    litter = sorted(path.name for path in dest.iterdir())
    save(dest, 3)
    return {
        "step": step,
        "what": what,
        "left": left,
        "litter": litter,
        "after": contents(dest),
        "names": sorted(path.name for path in dest.iterdir()),
    }


def main(folder: str) -> None:
    step = 1
    while (found := survive(step, Path(folder) / "runs")) is not None:
        print(json.dumps(found), flush=True)
        step += 1


if __name__ == "__main__":
    main(sys.argv[1])
