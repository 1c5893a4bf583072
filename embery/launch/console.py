"""What the roles print: on the terminal with a prefix a line, and in a file a role.

    worker 0 | step 100: loss 0.4312

Prefixes are coloured where the stream is a terminal, and NO_COLOR (no-color.org) is not set. There
a line that a role writes anew after each carriage return, a progress bar, stays the last line and
changes in place: that of one role, whichever began first. Elsewhere it is shown when it is whole.
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
# Of a terminal that does not know its size.
_COLUMNS = 80
_ERASE_LINE = "\r\x1b[K"


class Console:
    """Where the output of all roles goes; a context manager that closes their files.

    Args:
        names: of the roles that there will be from the beginning.
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
        self._colour: dict[str, int] = {}
        self._tails: dict[str, deque[str]] = {}
        # The beginning of a line whose end has not come yet.
        self._partial: dict[tuple[str, Stream], bytes] = {}
        # Whose line changes in place, and whether it is on the terminal now.
        self._live: tuple[str, Stream] | None = None
        self._drawn = False
        self._files: dict[str, TextIO] = {}
        self._stack = ExitStack()
        self._folder = None if log_dir is None else Path(log_dir)
        for name in names:
            self.add(name)

    def add(self, name: str) -> None:
        """Make ready for a role, once."""
        if name in self._tails:
            return
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / f"{name.replace(' ', '-')}.log"
            file = path.open("w", encoding="utf-8", buffering=1)
            self._files[name] = self._stack.enter_context(file)
        self._colour[name] = _COLOURS[len(self._tails) % len(_COLOURS)]
        self._tails[name] = deque(maxlen=_TAIL_LINES)

    def __enter__(self) -> Console:
        return self

    def __exit__(self, *_: object) -> None:
        self._erase()
        self._stack.close()

    @property
    def columns(self) -> int | None:
        """Return how wide a role's line on stderr may be; None where that is no terminal."""
        return self._columns(self._targets["stderr"])

    def feed(self, name: str, stream: Stream, data: bytes) -> list[str]:
        """Take in what a role printed, b"" at its end; show and return the lines it completes."""
        whole = self._partial.pop((name, stream), b"") + data
        *lines, rest = whole.split(b"\n")
        rest = _last_writing(rest)
        if rest and (not data or len(rest) > _LINE_BYTES_MAX):
            lines.append(rest)
        elif rest:
            self._partial[name, stream] = rest
        shown = [_text(line) for line in lines]
        for line in shown:
            self._show(name, stream, line)
        self._draw(name, stream)
        return shown

    def tail(self, name: str) -> list[str]:
        """Return the last lines of a role."""
        return list(self._tails[name])

    def _show(self, name: str, stream: Stream, line: str) -> None:
        self._tails[name].append(line)
        if name in self._files:
            self._files[name].write(f"{line}\n")
        self._erase()
        target = self._targets[stream]
        target.write(f"{self._prefix(name, target)} {line}\n")
        target.flush()

    def _prefix(self, name: str, target: TextIO) -> str:
        prefix = f"{name:<{self._width}} |"
        if target.isatty() and not os.environ.get("NO_COLOR"):
            return f"\x1b[{self._colour[name]}m{prefix}\x1b[0m"
        return prefix

    # -- the line that changes in place -----------------------------------------------------------

    def _draw(self, name: str, stream: Stream) -> None:
        """Draw the line in place, after what a role has just printed."""
        begun = self._partial.get((name, stream), b"").startswith(b"\r")
        if begun and self._live is None:
            self._live = name, stream
        elif not begun and self._live == (name, stream):
            self._erase()
            self._live = None
        if self._live is None or (self._drawn and self._live != (name, stream)):
            return
        self._erase()
        owner, of_stream = self._live
        target = self._targets[of_stream]
        columns = self._columns(target)
        if columns is not None:
            text = _text(self._partial[self._live])[:columns]
            target.write(f"{self._prefix(owner, target)} {text}")
            target.flush()
            self._drawn = True

    def _erase(self) -> None:
        if self._drawn and self._live is not None:
            target = self._targets[self._live[1]]
            target.write(_ERASE_LINE)
            target.flush()
        self._drawn = False

    def _columns(self, target: TextIO) -> int | None:
        if not target.isatty():
            return None
        # The last column stays free: some terminals begin a new line when it is written.
        found = os.get_terminal_size(target.fileno()).columns or _COLUMNS
        return max(0, found - self._width - len(" | ") - 1)


def _last_writing(line: bytes) -> bytes:
    """Return what of a line that has not ended is still seen, from its carriage return on."""
    begin = line.rstrip(b"\r").rfind(b"\r")
    return line[max(begin, 0) :]


def _text(line: bytes) -> str:
    """Return what a terminal would have left of a line: what follows the last carriage return."""
    return line.rstrip(b"\r").rpartition(b"\r")[2].decode(errors="replace")
