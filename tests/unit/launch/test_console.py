"""Lines that change in place, on a real terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from embery.launch.console import Console

ERASE = "\r\x1b[K"


class Terminal:
    """A terminal of 40 columns, and what is written to it."""

    def __init__(self) -> None:
        self.read_end, write_end = pty.openpty()
        fcntl.ioctl(write_end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
        self.stream: TextIO = os.fdopen(write_end, "w")

    def written(self) -> str:
        """Return what was written since the last call; all of it is in the buffer by now."""
        os.set_blocking(self.read_end, False)
        parts = []
        while True:
            try:
                parts.append(os.read(self.read_end, 1 << 16))
            except BlockingIOError:
                return b"".join(parts).decode().replace("\r\n", "\n")


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    monkeypatch.setenv("NO_COLOR", "1")
    opened = Terminal()
    yield opened
    opened.stream.close()
    os.close(opened.read_end)


def console_of(terminal: Terminal, log_dir: Path | None = None) -> Console:
    names = ["worker 0", "worker 1"]
    return Console(names, stdout=terminal.stream, stderr=terminal.stream, log_dir=log_dir)


def test_a_bar_changes_in_place_and_stays_below_other_lines(
    terminal: Terminal, tmp_path: Path
) -> None:
    with console_of(terminal, tmp_path) as console:
        assert console.feed("worker 0", "stderr", b"\r 10%") == []
        assert terminal.written() == "worker 0 |  10%"
        assert console.feed("worker 0", "stderr", b"\r 20%\r 30%") == []
        assert terminal.written() == f"{ERASE}worker 0 |  30%"
        assert console.feed("worker 1", "stdout", b"hello\n") == ["hello"]
        assert terminal.written() == f"{ERASE}worker 1 | hello\nworker 0 |  30%"
        # As tqdm writes a line above its bar, and then ends the bar.
        assert console.feed("worker 0", "stderr", b"\r    \rauc 0.8\n\r 40%") == ["auc 0.8"]
        assert terminal.written() == f"{ERASE}worker 0 | auc 0.8\nworker 0 |  40%"
        assert console.feed("worker 0", "stderr", b"\r100%\n") == ["100%"]
        assert terminal.written() == f"{ERASE}worker 0 | 100%\n"
        assert console.feed("worker 1", "stdout", b"bye\n") == ["bye"]
        assert terminal.written() == "worker 1 | bye\n"
    assert (tmp_path / "worker-0.log").read_text() == "auc 0.8\n100%\n"


def test_the_first_bar_stays_until_it_ends(terminal: Terminal) -> None:
    with console_of(terminal) as console:
        console.feed("worker 1", "stderr", b"\rmine")
        console.feed("worker 0", "stderr", b"\ryours")
        assert terminal.written() == "worker 1 | mine"
        console.feed("worker 1", "stderr", b"")
        assert terminal.written() == f"{ERASE}worker 1 | mine\n"
        console.feed("worker 0", "stderr", b"\ryours now")
        assert terminal.written() == "worker 0 | yours now"
    assert terminal.written() == ERASE


def test_a_bar_is_cut_to_the_width_of_the_terminal(terminal: Terminal) -> None:
    with console_of(terminal) as console:
        assert console.columns == 40 - len("worker 0 | ") - 1
        console.feed("worker 0", "stderr", b"\r" + b"=" * 100)
        assert terminal.written() == "worker 0 | " + "=" * 28


def test_a_bar_that_goes_on_for_ever_takes_no_room(terminal: Terminal) -> None:
    with console_of(terminal) as console:
        for _ in range(300):
            assert console.feed("worker 0", "stderr", b"\r" + b"=" * 1000) == []
            terminal.written()
        assert console.feed("worker 0", "stderr", b"\n") == ["=" * 1000]


def test_a_carriage_return_before_a_line_end_may_come_apart_from_it(terminal: Terminal) -> None:
    with console_of(terminal) as console:
        assert console.feed("worker 0", "stdout", b"one\r") == []
        assert console.feed("worker 0", "stdout", b"\ntwo\r\n") == ["one", "two"]


def test_without_a_terminal_a_bar_is_shown_when_it_is_whole(tmp_path: Path) -> None:
    with (
        (tmp_path / "out").open("w") as file,
        Console(["a"], stdout=file, stderr=file) as console,
    ):
        assert console.columns is None
        console.feed("a", "stderr", b"\r 10%\r 20%")
        console.feed("a", "stderr", b"\r100%\n")
    assert (tmp_path / "out").read_text() == "a | 100%\n"
