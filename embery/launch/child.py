"""Becomes a role's program, after asking the kernel to kill it with the launcher.

    python -I -S child.py PARENT_PID PROGRAM ARGUMENTS...

A program of its own rather than code between fork and exec, where little is safe. The request
survives exec, and holds for the thread that started this process: the launcher's only one.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_NOT_STARTED = 127


def main() -> int:
    """Replace this process; return only if that failed."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # What a parent of many threads blocks, its child would never be asked.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if os.getppid() != parent:
        return _NOT_STARTED  # It went before the request was made.
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"cannot start {command[0]}: {error.strerror}", file=sys.stderr)
    return _NOT_STARTED


if __name__ == "__main__":
    sys.exit(main())
