"""What the roles print: on the terminal with a prefix a line, and in a file a role.

    worker 0 | step 100: loss 0.4312

Prefixes are coloured where the stream is a terminal, and NO_COLOR (no-color.org) is not set.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal, TextIO

Stream = Literal["stdout", "stderr"]
STREAMS: tuple[Stream, Stream] = ("stdout", "stderr")

# Foreground colours that read well on dark and on light ground: cyan, green, yellow, magenta, blue.
_COLOURS = (36, 32, 33, 35, 34)
_TAIL_LINES = 20
# A line without an end is shown in pieces of this size.
_LINE_BYTES_MAX = 1 << 16


class Console:
    """Where the output of all roles goes; a context manager that closes their files.

    Args:
        names: of the roles.
        stdout, stderr: where their lines go.
        log_dir: folder, created, of a file a role, such as "worker-0.log"; None writes none.

    Raises:
        OSError: the folder or a file cannot be written.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        stdout: TextIO,
        stderr: TextIO,
        log_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        self._targets: dict[Stream, TextIO] = {"stdout": stdout, "stderr": stderr}
        self._width = max(map(len, names))
        self._colour = {name: _COLOURS[at % len(_COLOURS)] for at, name in enumerate(names)}
        self._tails = {name: deque[str](maxlen=_TAIL_LINES) for name in names}
        # The beginning of a line whose end has not come yet.
        self._partial: dict[tuple[str, Stream], bytes] = {}
        self._files: dict[str, TextIO] = {}
        self._stack = ExitStack()
        if log_dir is not None:
            folder = Path(log_dir)
            folder.mkdir(parents=True, exist_ok=True)
            for name in names:
                path = folder / f"{name.replace(' ', '-')}.log"
                file = path.open("w", encoding="utf-8", buffering=1)
                self._files[name] = self._stack.enter_context(file)

    def __enter__(self) -> Console:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def feed(self, name: str, stream: Stream, data: bytes) -> list[str]:
        """Take in what a role printed, b"" at its end; show and return the lines it completes."""
        whole = self._partial.pop((name, stream), b"") + data
        *lines, rest = whole.split(b"\n")
        if rest and (not data or len(rest) > _LINE_BYTES_MAX):
            lines.append(rest)
        elif rest:
            self._partial[name, stream] = rest
        # After the last carriage return is what a terminal would have left of the line.
        shown = [line.rstrip(b"\r").rpartition(b"\r")[2].decode(errors="replace") for line in lines]
        for line in shown:
            self._show(name, stream, line)
        return shown

    def tail(self, name: str) -> list[str]:
        """Return the last lines of a role."""
        return list(self._tails[name])

    def _show(self, name: str, stream: Stream, line: str) -> None:
        self._tails[name].append(line)
        if name in self._files:
            self._files[name].write(f"{line}\n")
        target = self._targets[stream]
        prefix = f"{name:<{self._width}} |"
        if target.isatty() and not os.environ.get("NO_COLOR"):
            prefix = f"\x1b[{self._colour[name]}m{prefix}\x1b[0m"
        target.write(f"{prefix} {line}\n")
        target.flush()
