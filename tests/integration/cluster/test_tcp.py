"""What goes wrong on TCP is told to whom it concerns, and to nobody else."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embery as em
from embery import _native

ROOT = Path(__file__).parents[3]
SECRET = b"a secret of enough bytes"  # That of the planes.
NOW_S = 1_700_000_000
HELLO, PULL, REPLY = 1, 2, 4
MASK = 2**64 - 1
COUNTS = em.Table("t", dim=4, optimizer=em.optim.SGD(lr=1.0), initializer=em.init.Zeros())
ONE_KEY = {"t": np.zeros(1, np.uint64)}


@pytest.fixture
def transport() -> str:
    """Return the one transport of these tests."""
    return "tcp"


def fmix64(x: int) -> int:
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        x = (x ^ (x >> 33)) * factor & MASK
    return x ^ (x >> 33)


def header(kind: int, request: int, body_bytes: int) -> bytes:
    """Encode a header by the format's page, not by the code under test."""
    fields = struct.pack("<4sHHQI", b"EMBY", 2, kind, request, body_bytes)
    words = struct.unpack("<QQQ", fields + bytes(4))
    mixed = fmix64(words[2] ^ fmix64(words[1] ^ fmix64(words[0])))
    return fields + struct.pack("<I", mixed >> 32)


def hello(secret: bytes) -> bytes:
    return header(HELLO, 1, 8 + len(secret)) + struct.pack("<Q", 99) + secret


def eventually(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds; fail after 10 s."""
    deadline = time.monotonic() + 10
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        pause.wait(0.001)


def received(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        assert piece, f"closed after {data!r}"
        data += piece
    return data


@pytest.fixture
def raw(make_plane: Any) -> Iterator[tuple[Any, socket.socket]]:
    """Return a plane of one server and a bare socket that is connected to it."""
    plane = make_plane([COUNTS], servers=1)
    with socket.create_connection(("127.0.0.1", plane.addresses[0]), timeout=10) as connection:
        yield plane, connection


def test_a_wrong_secret_is_refused(make_plane: Any) -> None:
    plane = make_plane([COUNTS], servers=1)
    client = _native.Client(1)
    with pytest.raises(
        em.Unauthenticated, match=r"server 0 at 127\.0\.0\.1:\d+: the secret is not"
    ):
        client.connect_tcp(0, "127.0.0.1", plane.addresses[0], b"another of enough bytes!", 10.0)
    eventually(lambda: plane.servers[0].stats()["connections"] == 0)
    assert plane.servers[0].stats()["unauthenticated"] == 1


def test_a_request_before_the_hello_is_refused(raw: Any) -> None:
    plane, connection = raw
    connection.sendall(header(PULL, 7, 0))
    kind, request = struct.unpack("<HQ", received(connection, 24)[6:16])
    assert (kind, request) == (REPLY, 7)
    eventually(lambda: plane.servers[0].stats()["connections"] == 0)


@pytest.mark.parametrize(
    "frame",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        header(HELLO, 1, 4096),
        header(9, 1, 8),
        header(HELLO, 1, 32)[:-1] + b"\x00",
    ],
    ids=["another protocol", "a hello too large", "an unknown type", "a wrong checksum"],
)
def test_a_malformed_frame_closes_its_connection_and_no_other(raw: Any, frame: bytes) -> None:
    plane, connection = raw
    client = plane.client()
    connection.sendall(frame)
    # A reset, if what was sent behind the header is thrown away unread.
    with contextlib.suppress(ConnectionResetError):
        assert connection.recv(1) == b""
    assert plane.servers[0].stats()["malformed"] == 1
    plane.pull(client, ONE_KEY)


@pytest.mark.parametrize("sent", [5, 24, 40], ids=lambda n: f"after {n} bytes")
def test_a_client_that_vanishes_within_a_frame_leaves_nothing(raw: Any, sent: int) -> None:
    plane, connection = raw
    client = plane.client()
    connection.sendall(hello(SECRET))
    received(connection, 24 + 32)
    connection.sendall((header(PULL, 2, 1 << 20) + bytes(1000))[:sent])
    connection.close()
    eventually(lambda: plane.servers[0].stats()["connections"] == 1)
    plane.pull(client, ONE_KEY)


def test_64_clients_at_once(make_plane: Any) -> None:
    plane = make_plane([COUNTS], servers=2)
    keys = {"t": np.arange(500, dtype=np.uint64)}
    grads = {"t": np.full((500, 4), -1.0, np.float32)}

    def work(number: int, client: Any) -> None:
        for _ in range(5):
            plane.pull(client, keys)
            plane.push(client, keys, grads)

    clients = [plane.client(number) for number in range(64)]
    threads = [threading.Thread(target=work, args=each) for each in enumerate(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert np.array_equal(plane.pull(clients[0], keys)["t"], np.full((500, 4), 320.0))
    assert [server.stats()["connections"] for server in plane.servers] == [64, 64]


def test_calls_of_one_client_at_once_each_take_a_connection(make_plane: Any) -> None:
    plane = make_plane([COUNTS], servers=1)
    client = plane.client()
    keys = {"t": np.arange(20_000, dtype=np.uint64)}
    grads = {"t": np.full((20_000, 4), -1.0, np.float32)}

    def work() -> None:
        for _ in range(10):
            plane.push(client, keys, grads)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert np.array_equal(plane.pull(client, keys)["t"], np.full((20_000, 4), 40.0))
    assert 1 <= plane.servers[0].stats()["connections"] <= 4


def test_a_stopped_server_is_unavailable_and_named(make_plane: Any) -> None:
    plane = make_plane([COUNTS], servers=3)
    client = plane.client()
    keys = {"t": np.arange(100, dtype=np.uint64)}
    plane.pull(client, keys)
    plane.servers[1].stop()
    for _ in range(2):  # By the connection it had, and by a new one.
        with pytest.raises(em.Unavailable, match=rf"server 1 at 127\.0\.0\.1:{plane.addresses[1]}"):
            plane.pull(client, keys)


def test_a_port_in_use_and_an_unknown_host_say_so(make_plane: Any) -> None:
    plane = make_plane([COUNTS], servers=1)
    taken = plane.addresses[0]
    with pytest.raises(em.Unavailable, match=rf"127\.0\.0\.1:{taken}: Address already in use"):
        plane.servers[0].listen_tcp("127.0.0.1", taken)
    with pytest.raises(em.Unavailable, match=r"unknown host 'no\.such\.host\.invalid'"):
        plane.servers[0].listen_tcp("no.such.host.invalid", 0)
    with pytest.raises(em.Unavailable, match=r"server 4 at .*unknown host"):
        _native.Client(1).connect_tcp(4, "no.such.host.invalid", 1, b"x" * 16, 10.0)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(em.Unavailable, match=f"server 4 at .*{port} cannot be reached"):
            _native.Client(1).connect_tcp(4, "127.0.0.1", port, b"x" * 16, 10.0)


def test_a_server_that_does_not_greet_exceeds_the_deadline() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(em.DeadlineExceeded, match="server 2 at"):
            _native.Client(1).connect_tcp(2, "127.0.0.1", silent.getsockname()[1], b"x" * 16, 0.05)


@pytest.fixture
def process() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Return a server in a process of its own, and its port."""
    program = Path(__file__).with_name("server_program.py")
    command = [sys.executable, str(program), "6", SECRET.decode()]
    server = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )
    assert server.stdout is not None
    with server:
        yield server, int(server.stdout.readline())
        server.kill()


def pull_one(client: Any, timeout_s: float) -> Any:
    out = np.full((1, 4), np.nan, np.float32)
    salts = [_native.table_salt("t")]
    client.pull(salts, [4], [np.zeros(1, np.uint64)], [out], None, "train", NOW_S, timeout_s)
    return out


def freeze(process: subprocess.Popen[str]) -> None:
    """Stop a process; returns once it is, as the signal alone does not wait for that."""
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)


def test_a_frozen_server_exceeds_the_deadline_and_serves_again_when_it_thaws(process: Any) -> None:
    server, port = process
    client = _native.Client(1)
    client.connect_tcp(6, "127.0.0.1", port, SECRET, 10.0)
    client.set_routing(1, np.full(4096, 6, np.uint16))
    assert np.array_equal(pull_one(client, 10.0), np.zeros((1, 4)))
    freeze(server)
    try:
        with pytest.raises(em.DeadlineExceeded, match=f"server 6 at .*{port} did not answer"):
            pull_one(client, 0.05)
    finally:
        os.kill(server.pid, signal.SIGCONT)
    assert np.array_equal(pull_one(client, 10.0), np.zeros((1, 4)))


def test_a_killed_server_is_noticed_by_the_call_that_waits(process: Any) -> None:
    server, port = process
    client = _native.Client(1)
    client.connect_tcp(6, "127.0.0.1", port, SECRET, 10.0)
    client.set_routing(1, np.full(4096, 6, np.uint16))
    pull_one(client, 10.0)
    freeze(server)
    killer = threading.Timer(0.05, server.kill)
    killer.start()
    with pytest.raises(em.Unavailable, match=f"server 6 at .*{port} closed the connection"):
        pull_one(client, 30.0)
    killer.join()
