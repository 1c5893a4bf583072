"""The engine of a Ray cluster: each role is a process that a Ray actor of its own starts.

Where a role runs is Ray's choice; a server and a worker take one of Ray's processors each. The
actor starts the role as `LocalEngine` does, so what holds on one machine holds on each node: should
the actor be killed, the kernel kills the role, and the keeper what that had started. Actors end
with the launcher, whichever way that ends, for Ray ends the actors of a driver that is gone.

Ray, and embery, must be installed on every node, and the script be at the same path.
"""

from __future__ import annotations

import importlib
import os
import select
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO

from embery.errors import InvalidArgument, Unavailable
from embery.launch.local import LOOPBACK, LocalEngine, reserve_port
from embery.launch.role import Role
from embery.place import DATA_INTERFACE_VARIABLE
from embery.rpc.credentials import VARIABLES
from embery.rpc.transports import GRAD_INTERFACE_VARIABLE

PLACE_TIMEOUT_S = 60.0
CALL_TIMEOUT_S = 30.0
# One reads what the role prints, one sends signals.
_CONCURRENCY = 4
_READ_BYTES = 1 << 16
# So long the output of a role that has ended may still come.
_DRAIN_S = 2.0
_LOST = -signal.SIGKILL
# What roles are told by the launcher's environment, beside what the role itself says.
_HANDED_ON = (
    "EMBERY_LOG",
    GRAD_INTERFACE_VARIABLE,
    DATA_INTERFACE_VARIABLE,
    "GLOO_SOCKET_IFNAME",
    *VARIABLES.values(),
)


class RolePlace:
    """Where one role runs: lives in a Ray actor, on the node that Ray has chosen.

    Args:
        host: address at which others reach it; "" asks Ray.
    """

    def __init__(self, host: str) -> None:
        host = host or importlib.import_module("ray").util.get_node_ip_address()
        self._engine = LocalEngine(host)
        self._engine.__enter__()
        self._reserved: socket.socket | None = None

    def reserve(self) -> tuple[str, int]:
        """Keep a port free; return host and port."""
        self._reserved = reserve_port(self._engine.host)
        return self._engine.host, self._reserved.getsockname()[1]

    def start(
        self, name: str, command: tuple[str, ...], environment: Mapping[str, str], folder: str
    ) -> None:
        """Start the role."""
        os.chdir(folder)
        self._process = self._engine.start(Role(name, command, environment))
        self._ended = os.pidfd_open(self._process.pid)
        self._open = list(self._process.outputs)

    def read(self) -> tuple[bytes, bytes, int | None]:
        """Wait until the role prints or ends; return what it printed, and its code at the end.

        The code comes alone, after all that was printed.
        """
        found = [b"", b""]
        outputs = self._process.outputs
        while self._open and not any(found):
            runs = self._process.poll() is None
            # What the role started may keep its outputs open, so its end is waited for too.
            awaited: list[Any] = [*self._open, *([self._ended] if runs else [])]
            ready, _, _ = select.select(awaited, [], [], None if runs else _DRAIN_S)
            if not ready:
                self._open = []
            for pipe in [pipe for pipe in self._open if pipe in ready]:
                found[outputs.index(pipe)] = data = os.read(pipe.fileno(), _READ_BYTES)
                if not data:
                    self._open.remove(pipe)
        if any(found):
            return found[0], found[1], None
        select.select([self._ended], [], [])
        return b"", b"", self._process.poll()

    def send(self, number: int) -> None:
        """Send a signal to the role and what it started."""
        self._process.send(signal.Signals(number))


class RayProcess:
    """See `Process`. A thread carries what the role prints into pipes, and its code."""

    def __init__(self, ray: Any, place: Any, name: str) -> None:
        self._ray, self._place, self._name = ray, place, name
        self._code: int | None = None
        ends = [os.pipe() for _ in range(2)]
        self._outputs = tuple(open(read, "rb", buffering=0) for read, _ in ends)  # noqa: SIM115
        self._inputs = [open(write, "wb", buffering=0) for _, write in ends]  # noqa: SIM115
        threading.Thread(target=self._carry, name=f"embery {name}", daemon=True).start()

    @property
    def outputs(self) -> tuple[BinaryIO, BinaryIO]:
        """See `Process.outputs`."""
        stdout, stderr = self._outputs
        return stdout, stderr

    def poll(self) -> int | None:
        """See `Process.poll`."""
        return self._code

    def send(self, number: signal.Signals) -> None:
        """See `Process.send`."""
        if self._code is None:
            # Not waited for: the node may be gone, which the thread is told.
            self._place.send.remote(int(number))

    def _carry(self) -> None:
        code: int | None = None
        try:
            while code is None:
                *printed, code = self._ray.get(self._place.read.remote())
                for pipe, data in zip(self._inputs, printed, strict=True):
                    pipe.write(data)
        except Exception as error:
            self._inputs[1].write(f"the place of {self._name} is lost: {error}\n".encode())
        # Before the pipes end, for that is when the supervisor looks.
        self._code = _LOST if code is None else code
        for pipe in self._inputs:
            pipe.close()


class RayEngine:
    """Starts roles on the nodes of a Ray cluster; a context manager. See `Engine`.

    The cluster is that of $RAY_ADDRESS; without it a Ray of this machine is started, and ended.

    Args:
        roles: of the run, for each of which a Ray that is started here has room.
    """

    def __init__(self, roles: int) -> None:
        self._roles = roles
        self._places: dict[str, Any] = {}

    def __enter__(self) -> RayEngine:
        try:
            self._ray = importlib.import_module("ray")
        except ImportError as error:
            raise InvalidArgument(
                f"--engine ray: Ray is not here ({error}); pip install ray"
            ) from None
        # Roles of a Ray of this machine alone stay within it.
        self._host = "" if os.environ.get("RAY_ADDRESS") else LOOPBACK
        own = {"num_cpus": self._roles} if self._host else {}
        try:
            self._ray.init(
                log_to_driver=False, configure_logging=False, include_dashboard=False, **own
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise Unavailable(f"--engine ray: no Ray cluster can be had: {error}") from error
        return self

    def __exit__(self, *_: object) -> None:
        for place in self._places.values():
            self._ray.kill(place)
        self._ray.shutdown()

    def start(self, role: Role) -> RayProcess:
        """See `Engine.start`."""
        place = self._place(role.name)
        handed_on = {name: os.environ[name] for name in _HANDED_ON if name in os.environ}
        environment = {**handed_on, **role.environment}
        self._get(
            role.name,
            place.start.remote(role.name, role.command, environment, os.getcwd()),
            CALL_TIMEOUT_S,
        )
        return RayProcess(self._ray, place, role.name)

    @contextmanager
    def reserve(self, name: str) -> Iterator[tuple[str, int]]:
        """See `Engine.reserve`."""
        host, port = self._get(name, self._place(name).reserve.remote(), PLACE_TIMEOUT_S)
        yield host, port

    def _place(self, name: str) -> Any:
        """Return the place of a role, and have Ray choose one the first time."""
        if name not in self._places:
            actor = self._ray.remote(RolePlace).options(
                num_cpus=0 if name == "coordinator" else 1,
                max_concurrency=_CONCURRENCY,
                scheduling_strategy="SPREAD",
            )
            place = self._places[name] = actor.remote(self._host)
            self._get(name, place.__ray_ready__.remote(), PLACE_TIMEOUT_S)
        return self._places[name]

    def _get(self, name: str, call: Any, timeout_s: float) -> Any:
        try:
            return self._ray.get(call, timeout=timeout_s)
        except self._ray.exceptions.GetTimeoutError:
            raise Unavailable(
                f"{name}: Ray found no place within {timeout_s:g} s; a server and a worker need "
                "one of its processors each"
            ) from None
        except self._ray.exceptions.RayError as error:
            raise Unavailable(f"{name} cannot be started by Ray: {error}") from error
