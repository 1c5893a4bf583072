"""A whole run: a coordinator, its servers, the workers that train, wherever the engine has them."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass

from embery.errors import DeadlineExceeded, InvalidArgument, Unavailable
from embery.launch.contract import COLUMNS_VARIABLE
from embery.launch.role import HOST, Engine, Role
from embery.launch.supervisor import Supervisor
from embery.place import (
    RANK_VARIABLE,
    RESTARTS_VARIABLE,
    WORKERS_MAX,
    WORLD_SIZE_VARIABLE,
)
from embery.rpc.address import is_loopback
from embery.rpc.client import CoordinatorClient
from embery.rpc.transports import TRANSPORT_VARIABLE, TRANSPORTS
from embery.store import URL_VARIABLE
from embery.validation import require_int, require_range

log = logging.getLogger(__name__)

SERVERS_MAX = 1024
RESTARTS_MAX = 1_000_000
READY_TIMEOUT_S = 60.0
COORDINATOR_READY, SERVER_READY = "coordinator ready at ", "ps "
SERVER_LEAVING = "drained: "
ENGINES = ("local", "ray", "kubernetes")
_EMBERY = (sys.executable, "-u", "-m", "embery.cli.main")


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What to run.

    Args:
        script: the training script and its arguments.
        servers, workers: how many.
        transport: between worker and server, one of `TRANSPORTS`.
        grace_s: how long a role may take to end when asked to.
        restarts: how often everything is started anew after a role has failed.
        insecure: serve beyond one machine without credentials.
    """

    script: tuple[str, ...]
    servers: int = 1
    workers: int = 1
    transport: str = "auto"
    grace_s: float = 30.0
    restarts: int = 0
    insecure: bool = False

    def validate(self, *, here: bool = True) -> None:
        """Raise `InvalidArgument` naming the first option that is wrong.

        The script must be there, unless it is to run elsewhere than `here`.
        """
        require_int("--ps", self.servers, low=1, high=SERVERS_MAX)
        require_int("--workers", self.workers, low=1, high=WORKERS_MAX)
        require_range("--grace", self.grace_s, low=0.0)
        require_int("--restarts", self.restarts, low=0, high=RESTARTS_MAX)
        if self.transport not in TRANSPORTS:
            raise InvalidArgument(f"--transport must be one of {TRANSPORTS}, got {self.transport}")
        if not self.script or (here and not os.path.isfile(self.script[0])):
            raise InvalidArgument(
                f"{self.script[0] if self.script else 'no script'}: there is no such file; give "
                "the training script after the options of embery run"
            )

    def role_names(self) -> list[str]:
        """Return the names of all roles."""
        servers = [f"ps {number}" for number in range(self.servers)]
        return ["coordinator", *servers, *(f"worker {rank}" for rank in range(self.workers))]


def run_cluster(
    options: RunOptions,
    engine: Engine,
    supervisor: Supervisor,
    *,
    columns: int | None = None,
    restarts: int = 0,
) -> None:
    """Start everything, and return when every worker has finished and all is ended.

    `columns` is how wide a line of a worker may be on the terminal, if there is one; `restarts` how
    often everything was started before.

    Raises:
        RoleFailed: a role ended too early, or with another code than 0.
        KeyboardInterrupt, Terminated: a signal came. Workers were told first, while the servers
            were still there to take a checkpoint of.
    """
    coordinator = coordinator_role(options)
    supervisor.start([coordinator])
    (line,) = supervisor.wait_ready([coordinator], timeout_s=READY_TIMEOUT_S)
    url = line.removeprefix(COORDINATOR_READY).split()[0]
    servers = [server_role(options, number, url) for number in range(options.servers)]
    for server in servers:
        # One after the other: the coordinator numbers them as they come, and so do we.
        supervisor.start([server])
        supervisor.wait_ready([server], timeout_s=READY_TIMEOUT_S)

    with engine.reserve("worker 0") as master:
        workers = worker_roles(options, url, master, columns, restarts)
        try:
            supervisor.start(workers)
            with closing(CoordinatorClient(url)) as client:
                scaling = _Scaling(options, client, supervisor, servers)
                supervisor.wait_finished(workers, meanwhile=scaling.follow)
        except KeyboardInterrupt:
            supervisor.stop(workers, signal.SIGINT)
            raise
    # A server that ends before its coordinator can still say so.
    supervisor.stop(workers, signal.SIGTERM)
    supervisor.stop(servers, signal.SIGTERM)
    supervisor.stop([coordinator], signal.SIGTERM)


class _Scaling:
    """Starts the servers that `embery scale` asked for; those that are too many end by themselves.

    Args:
        servers: all that were ever started; more are added.
    """

    def __init__(
        self,
        options: RunOptions,
        client: CoordinatorClient,
        supervisor: Supervisor,
        servers: list[Role],
    ) -> None:
        self._options, self._client = options, client
        self._supervisor, self._servers = supervisor, servers

    def follow(self) -> None:
        """Start what is missing."""
        try:
            status = self._client.status()
        except (Unavailable, DeadlineExceeded) as error:
            log.warning("nobody can scale the run now: %s", error)
            return
        there = [s for s in status.routing.servers.values() if s.state in ("joining", "live")]
        missing = status.wanted_servers - sum(not server.draining for server in there)
        for _ in range(missing):
            server = server_role(self._options, len(self._servers), self._client.url)
            self._servers.append(server)
            self._supervisor.start([server])
            self._supervisor.wait_ready([server], timeout_s=READY_TIMEOUT_S)


def coordinator_role(options: RunOptions) -> Role:
    """Return the coordinator, on a port of the system's choice."""
    where = ("--host", HOST, "--port", "0", *_insecure(options))
    command = (*_EMBERY, "coordinator", *where, "--expect-ps", str(options.servers))
    return Role("coordinator", command, ready=COORDINATOR_READY)


def server_role(options: RunOptions, number: int, url: str) -> Role:
    """Return the server that is to be number `number` of the coordinator at `url`."""
    # When a run ends there is nobody to give slots to.
    where = ("--coordinator", url, "--host", HOST, *_insecure(options))
    command = (*_EMBERY, "ps", *where, "--drain", "0")
    return Role(f"ps {number}", command, ready=SERVER_READY, leaving=SERVER_LEAVING)


def worker_roles(
    options: RunOptions, url: str, master: tuple[str, int], columns: int | None, restarts: int
) -> list[Role]:
    """Return the workers of a run; rank 0 listens at host and port `master` for all of them."""
    command = (*_EMBERY, "worker", *options.script)
    shared = {
        URL_VARIABLE: url,
        WORLD_SIZE_VARIABLE: str(options.workers),
        RESTARTS_VARIABLE: str(restarts),
        TRANSPORT_VARIABLE: options.transport,
        "MASTER_ADDR": master[0],
        "MASTER_PORT": str(master[1]),
        **(_defaults(options.workers, os.environ) if is_loopback(master[0]) else {}),
        **({} if columns is None else {COLUMNS_VARIABLE: str(columns)}),
    }
    return [
        Role(f"worker {rank}", command, {**shared, RANK_VARIABLE: str(rank)})
        for rank in range(options.workers)
    ]


def _insecure(options: RunOptions) -> tuple[str, ...]:
    return ("--insecure",) if options.insecure else ()


def _defaults(workers: int, environment: Mapping[str, str]) -> dict[str, str]:
    """Return what workers that share a machine need, unless the user has set it."""
    processors = len(os.sched_getaffinity(0))
    wanted = {
        # Each worker's torch would otherwise start a thread for every processor.
        "OMP_NUM_THREADS": str(max(1, processors // workers)),
        # gloo otherwise looks for the address of the host's name, which may have none.
        "GLOO_SOCKET_IFNAME": "lo",
    }
    return {name: value for name, value in wanted.items() if name not in environment}
