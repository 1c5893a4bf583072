"""The supervisor: what roles print, how a run ends, and that nothing outlives it."""

from __future__ import annotations

import io
import os
import select
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from embery.errors import InvalidArgument
from embery.launch.console import Console
from embery.launch.contract import PEER_LOST
from embery.launch.local import LocalEngine
from embery.launch.role import Role
from embery.launch.supervisor import RoleFailed, Supervisor

ROOT = Path(__file__).parents[3]
FOREVER = "import signal\nwhile True: signal.pause()"
# Says where it is, then waits; with a child of its own.
WITH_CHILD = f"""
    import os, subprocess, sys
    child = subprocess.Popen([sys.executable, "-c", {FOREVER!r}])
    print("pids", os.getpid(), child.pid, flush=True)
    {FOREVER.replace(chr(10), chr(10) + "    ")}
"""
STUBBORN = f"""
    import os, signal
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("pids", os.getpid(), flush=True)
    {FOREVER.replace(chr(10), chr(10) + "    ")}
"""


def python(name: str, program: str, *, ready: str | None = None) -> Role:
    return Role(name, (sys.executable, "-u", "-c", textwrap.dedent(program)), ready=ready)


class Shown:
    """What a console wrote."""

    def __init__(self) -> None:
        self.stdout, self.stderr = io.StringIO(), io.StringIO()


@contextmanager
def supervising(
    *names: str, shown: Shown | None = None, grace_s: float = 20.0, log_dir: Path | None = None
) -> Iterator[Supervisor]:
    shown = shown or Shown()
    with (
        Console(names, stdout=shown.stdout, stderr=shown.stderr, log_dir=log_dir) as console,
        LocalEngine() as engine,
        Supervisor(engine, console, grace_s=grace_s) as supervisor,
    ):
        yield supervisor


def wait_gone(pids: list[int]) -> None:
    """Wait until the processes, which are not our children, have ended."""
    for pid in pids:
        try:
            ends = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            assert select.select([ends], [], [], 20)[0], f"process {pid} is still there"
        finally:
            os.close(ends)


def test_roles_run_to_their_end_and_their_lines_are_prefixed(tmp_path: Path) -> None:
    shown = Shown()
    roles = [
        python("worker 0", "import sys; print('one'); print('two', file=sys.stderr)"),
        python("ps 0", "import sys; sys.stdout.write('10%\\r20%\\rdone, no newline')"),
    ]
    with supervising("worker 0", "ps 0", shown=shown, log_dir=tmp_path / "logs") as supervisor:
        supervisor.start(roles)
        supervisor.wait_finished(roles)
    assert sorted(shown.stdout.getvalue().splitlines()) == [
        "ps 0     | done, no newline",
        "worker 0 | one",
    ]
    assert shown.stderr.getvalue() == "worker 0 | two\n"
    assert sorted((tmp_path / "logs" / "worker-0.log").read_text().split()) == ["one", "two"]
    assert (tmp_path / "logs" / "ps-0.log").read_text() == "done, no newline\n"


def test_prefixes_are_coloured_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    for stream, expected in [
        (Terminal(), "\x1b[36ma |\x1b[0m x\n\x1b[32mb |\x1b[0m y\n"),
        (io.StringIO(), "a | x\nb | y\n"),
    ]:
        with Console(["a", "b"], stdout=stream, stderr=stream) as console:
            assert console.feed("a", "stdout", b"x") == []
            assert console.feed("a", "stdout", b"\n") == ["x"]
            assert console.feed("b", "stderr", b"y") == []
            assert console.feed("b", "stderr", b"") == ["y"]
        assert stream.getvalue() == expected


def test_a_role_is_ready_when_it_says_so() -> None:
    role = python("ps", f"print('starting')\nprint('ready at :7')\n{FOREVER}", ready="ready at ")
    with supervising("ps") as supervisor:
        supervisor.start([role])
        assert supervisor.wait_ready([role], timeout_s=20) == ["ready at :7"]


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("raise SystemExit('no port')", "exited with code 1"),
        ("print('no port')", "exited with code 0"),
        (f"print('no port')\n{FOREVER}", "did not get ready within 0.5 s"),
        ("import os\nprint('no port')\nos.kill(os.getpid(), 9)", "was ended by SIGKILL"),
    ],
)
def test_a_role_that_does_not_get_ready_ends_the_run(program: str, reason: str) -> None:
    role = python("ps 0", program, ready="ready at ")
    with supervising("ps 0") as supervisor:
        supervisor.start([role])
        with pytest.raises(RoleFailed, match=f"^ps 0 {reason}$"):
            supervisor.wait_ready([role], timeout_s=0.5 if "ready" in reason else 20)


def test_the_first_failure_is_told_with_its_last_lines_and_ends_the_others() -> None:
    server = python("ps 0", WITH_CHILD, ready="pids ")
    # The first to go is a victim of the other, which takes its time.
    victim = python("worker 0", f"print('{PEER_LOST}; see its log'); raise SystemExit(1)")
    guilty = python(
        "worker 1",
        """
        import time
        print("\\n".join(f"line {n}" for n in range(30)))
        time.sleep(0.3)
        raise ValueError("bad row 17")
        """,
    )
    with supervising("ps 0", "worker 0", "worker 1") as supervisor:
        supervisor.start([server])
        (line,) = supervisor.wait_ready([server], timeout_s=20)
        supervisor.start([victim, guilty])
        with pytest.raises(RoleFailed, match=r"^worker 1 exited with code 1$") as failure:
            supervisor.wait_finished([victim, guilty])
    assert failure.value.tail[-1] == "ValueError: bad row 17"
    assert len(failure.value.tail) == 20
    wait_gone([int(pid) for pid in line.split()[1:]])


def test_a_server_that_ends_while_workers_run_is_a_failure() -> None:
    server, worker = python("ps 0", "print('bye')"), python("worker 0", FOREVER)
    with supervising("ps 0", "worker 0") as supervisor:
        supervisor.start([server, worker])
        with pytest.raises(RoleFailed, match=r"^ps 0 exited with code 0$"):
            supervisor.wait_finished([worker])


def test_a_role_that_ignores_sigterm_is_killed_after_the_grace_period() -> None:
    role = python("ps 0", STUBBORN, ready="pids ")
    with supervising("ps 0", grace_s=0.2) as supervisor:
        supervisor.start([role])
        (line,) = supervisor.wait_ready([role], timeout_s=20)
        supervisor.stop([role], signal.SIGTERM)
        wait_gone([int(line.split()[1])])


def test_what_a_role_leaves_behind_ends_with_it() -> None:
    told = "import signal\nsignal.signal(signal.SIGUSR1, lambda *_: exit(0))\n"
    role = python("worker 0", told + textwrap.dedent(WITH_CHILD), ready="pids ")
    with supervising("worker 0") as supervisor:
        supervisor.start([role])
        (line,) = supervisor.wait_ready([role], timeout_s=20)
        pid, child = map(int, line.split()[1:])
        # Not before it was ready, which would be a failure.
        os.kill(pid, signal.SIGUSR1)
        supervisor.wait_finished([role])
        wait_gone([child])


def test_a_program_that_is_not_there_is_said() -> None:
    role = Role("ps 0", ("no-such-program",))
    with supervising("ps 0") as supervisor:
        supervisor.start([role])
        with pytest.raises(RoleFailed, match="exited with code 127") as failure:
            supervisor.wait_finished([role])
        with pytest.raises(InvalidArgument, match="names must be unique"):
            supervisor.start([role])
    assert failure.value.tail == ["cannot start no-such-program: No such file or directory"]


LAUNCHER = """
    import signal, sys
    from embery.launch.console import Console
    from embery.launch.local import LocalEngine
    from embery.launch.role import Role
    from embery.launch.supervisor import Supervisor
    role = Role("worker 0", (sys.executable, "-u", "-c", sys.argv[1]), ready="pids ")
    with (
        Console(["worker 0"], stdout=sys.stdout, stderr=sys.stderr) as console,
        LocalEngine() as engine,
        Supervisor(engine, console, grace_s=float(sys.argv[2])) as supervisor,
    ):
        supervisor.start([role])
        supervisor.wait_ready([role], timeout_s=20)
        print("launched", flush=True)
        supervisor.wait_finished([role])
"""


@contextmanager
def launcher(program: str, *, grace_s: float = 20.0) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a launcher of one role in a process; yield it and the role's first line."""
    command = [sys.executable, "-c", textwrap.dedent(LAUNCHER), textwrap.dedent(program)]
    with subprocess.Popen(
        [*command, str(grace_s)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert process.stdout.readline() == "launched\n", line
            yield process, line
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("number", "last"),
    [(signal.SIGINT, "KeyboardInterrupt"), (signal.SIGTERM, "Terminated: ended by SIGTERM")],
)
def test_a_signal_to_the_launcher_ends_all(number: signal.Signals, last: str) -> None:
    with launcher(WITH_CHILD) as (process, line):
        process.send_signal(number)
        out, _ = process.communicate(timeout=30)
        assert out.splitlines()[-1].endswith(last)
        assert process.returncode != 0
        wait_gone([int(pid) for pid in line.split()[4:]])


def test_a_second_signal_does_not_wait_for_the_grace_period() -> None:
    program = """
        import os, signal
        signal.signal(signal.SIGTERM, lambda *_: print("asked to end", flush=True))
        print("pids", os.getpid(), flush=True)
        while True: signal.pause()
    """
    with launcher(program, grace_s=1000.0) as (process, line):
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        assert process.stdout.readline() == "worker 0 | asked to end\n"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        wait_gone([int(line.split()[4])])


def test_all_ends_when_the_launcher_is_killed() -> None:
    with launcher(WITH_CHILD) as (process, line):
        process.kill()
        wait_gone([int(pid) for pid in line.split()[4:]])


def test_handlers_of_signals_are_as_they_were_before() -> None:
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)]
    with supervising("ps 0"):
        pass
    after = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)]
    assert before == after
