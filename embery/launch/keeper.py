"""Ends what a launcher leaves behind when it is killed and can end nothing any more.

    python -I -S keeper.py

The launcher writes the process group of each role to this program's standard input, one number a
line, and its negative once the role has ended. At the end of the input the launcher is gone, and
the groups that are left are killed.
"""

import os
import signal
import sys


def main() -> None:
    """Keep the list; kill what is on it at the end."""
    groups = set()
    for line in sys.stdin:
        group = int(line)
        groups.add(group) if group > 0 else groups.discard(-group)
    for group in groups:
        try:
            os.killpg(group, signal.SIGKILL)
        except ProcessLookupError:
            continue  # It ended with the launcher.


if __name__ == "__main__":
    main()
