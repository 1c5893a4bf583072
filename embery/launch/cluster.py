"""A whole run: a coordinator, its servers, the workers that train, wherever the engine has them."""

from __future__ import annotations

import logging
import os
import signal
from contextlib import closing
from dataclasses import dataclass

from embery.errors import DeadlineExceeded, InvalidArgument, Unavailable
from embery.launch.role import EMBERY, HOST, Engine, Role
from embery.launch.supervisor import Supervisor
from embery.launch.workers import Workers
from embery.place import WORKERS_MAX
from embery.rpc.client import ClusterStatus, CoordinatorClient
from embery.rpc.transports import TRANSPORTS
from embery.validation import require_int, require_range

log = logging.getLogger(__name__)

SERVERS_MAX = 1024
REPLICAS_MAX = 2
RESTARTS_MAX = 1_000_000
READY_TIMEOUT_S = 60.0
COORDINATOR_READY, SERVER_READY = "coordinator ready at ", "ps "
SERVER_LEAVING = "drained: "
ENGINES = ("local", "ray", "kubernetes")


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What to run.

    Args:
        script: the training script and its arguments.
        servers, workers: how many.
        replicas: servers that have each row. With 2, one that fails is replaced.
        transport: between worker and server, one of `TRANSPORTS`.
        grace_s: how long a role may take to end when asked to.
        restarts: how often everything is started anew after a role has failed.
        insecure: serve beyond one machine without credentials.
        elastic: whether workers may come and go. So many that fail are then replaced, too.
    """

    script: tuple[str, ...]
    servers: int = 1
    workers: int = 1
    replicas: int = 1
    transport: str = "auto"
    grace_s: float = 30.0
    restarts: int = 0
    insecure: bool = False
    elastic: bool = False

    def validate(self, *, here: bool = True) -> None:
        """Raise `InvalidArgument` naming the first option that is wrong.

        The script must be there, unless it is to run elsewhere than `here`.
        """
        require_int("--ps", self.servers, low=1, high=SERVERS_MAX)
        require_int("--workers", self.workers, low=1, high=WORKERS_MAX)
        require_int("--replicas", self.replicas, low=1, high=min(self.servers, REPLICAS_MAX))
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
        workers = Workers(
            options, supervisor, url=url, master=master, columns=columns, restarts=restarts
        )
        try:
            supervisor.start(workers.roles)
            with closing(CoordinatorClient(url)) as client:
                scaling = _Scaling(options, client, supervisor, servers)

                def follow() -> None:
                    status = scaling.follow()
                    if status is not None and options.elastic:
                        workers.follow(status)

                supervisor.wait_finished(workers.roles, meanwhile=follow)
        except KeyboardInterrupt:
            supervisor.stop(workers.roles, signal.SIGINT)
            raise
    # A server that ends before its coordinator can still say so.
    supervisor.stop(workers.roles, signal.SIGTERM)
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

    def follow(self) -> ClusterStatus | None:
        """Start what is missing; return how the cluster is, if its coordinator says so."""
        try:
            status = self._client.status()
        except (Unavailable, DeadlineExceeded) as error:
            log.warning("nobody can scale the run now: %s", error)
            return None
        there = [s for s in status.routing.servers.values() if s.state in ("joining", "live")]
        # One that failed is missed where others have its rows; else the run has failed with it.
        wanted = status.wanted_servers or (
            self._options.servers if self._options.replicas > 1 else 0
        )
        missing = wanted - sum(not server.draining for server in there)
        for _ in range(missing):
            server = server_role(self._options, len(self._servers), self._client.url)
            self._servers.append(server)
            self._supervisor.start([server])
            self._supervisor.wait_ready([server], timeout_s=READY_TIMEOUT_S)
        return status


def coordinator_role(options: RunOptions) -> Role:
    """Return the coordinator, on a port of the system's choice."""
    where = ("--host", HOST, "--port", "0", *_insecure(options))
    sizes = ("--expect-ps", str(options.servers), "--replicas", str(options.replicas))
    command = (*EMBERY, "coordinator", *where, *sizes)
    return Role("coordinator", command, ready=COORDINATOR_READY)


def server_role(options: RunOptions, number: int, url: str) -> Role:
    """Return the server that is to be number `number` of the coordinator at `url`."""
    # When a run ends there is nobody to give slots to.
    where = ("--coordinator", url, "--host", HOST, *_insecure(options))
    command = (*EMBERY, "ps", *where, "--drain", "0")
    return Role(
        f"ps {number}",
        command,
        ready=SERVER_READY,
        leaving=SERVER_LEAVING,
        expendable=options.replicas > 1,
    )


def _insecure(options: RunOptions) -> tuple[str, ...]:
    return ("--insecure",) if options.insecure else ()
