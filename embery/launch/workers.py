"""The workers of a run on one machine, and those that come and go."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from typing import TYPE_CHECKING

from embery.launch.contract import COLUMNS_VARIABLE, DISMISSED
from embery.launch.role import EMBERY, Role
from embery.launch.supervisor import Supervisor
from embery.place import (
    ELASTIC_VARIABLE,
    RANK_VARIABLE,
    RESTARTS_VARIABLE,
    WORLD_SIZE_VARIABLE,
)
from embery.rpc.address import is_loopback
from embery.rpc.transports import TRANSPORT_VARIABLE
from embery.store import URL_VARIABLE

if TYPE_CHECKING:
    from embery.launch.cluster import RunOptions
    from embery.rpc.client import ClusterStatus


class Workers:
    """All workers that a run ever had.

    Args:
        options: of the run.
        supervisor: starts those that are missing.
        url: of the coordinator.
        master: host and port that rank 0 opens for all of them, where they stay the same.
        columns: how wide a line of a worker may be on the terminal, if there is one.
        restarts: how often everything was started before.
    """

    def __init__(
        self,
        options: RunOptions,
        supervisor: Supervisor,
        *,
        url: str,
        master: tuple[str, int],
        columns: int | None,
        restarts: int,
    ) -> None:
        self._options, self._supervisor = options, supervisor
        self._shared = {
            URL_VARIABLE: url,
            RESTARTS_VARIABLE: str(restarts),
            TRANSPORT_VARIABLE: options.transport,
            "MASTER_ADDR": master[0],
            "MASTER_PORT": str(master[1]),
            **(_defaults(options.workers, os.environ) if is_loopback(master[0]) else {}),
            **({} if columns is None else {COLUMNS_VARIABLE: str(columns)}),
            **({ELASTIC_VARIABLE: "1"} if options.elastic else {}),
        }
        self.roles = [self._role(rank) for rank in range(options.workers)]

    def follow(self, status: ClusterStatus) -> None:
        """Start what is missing, unless the work is done: then end who came too late for it.

        Those that are too many end by themselves.
        """
        codes = self._supervisor.codes(self.roles)
        if 0 in codes:
            ranks = {worker.rank for worker in status.workers if worker.client in status.group}
            late = [role for rank, role in enumerate(self.roles) if rank not in ranks]
            self._supervisor.stop(late, signal.SIGTERM)
            return
        failed = sum(code is not None for code in codes)
        wanted = status.wanted_workers or self._options.workers
        missing = wanted - codes.count(None) - max(0, failed - self._options.restarts)
        for _ in range(missing):
            self.roles.append(self._role(len(self.roles)))
            self._supervisor.start(self.roles[-1:])

    def _role(self, rank: int) -> Role:
        size = max(self._options.workers, rank + 1)
        place = {RANK_VARIABLE: str(rank), WORLD_SIZE_VARIABLE: str(size)}
        elastic = self._options.elastic
        return Role(
            f"worker {rank}",
            (*EMBERY, "worker", *self._options.script),
            {**self._shared, **place},
            leaving=DISMISSED if elastic else None,
            expendable=elastic,
        )


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
