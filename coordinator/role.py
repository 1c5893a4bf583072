"""A coordinator as a whole: its state, its cluster, its service at an address."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING

from embery.coordinator.cluster import Cluster
from embery.coordinator.database import IN_MEMORY, Database
from embery.coordinator.mover import Mover
from embery.coordinator.service import CoordinatorService
from embery.coordinator.state import ClusterOptions
from embery.rpc.address import PORT_MAX, SCHEME
from embery.rpc.credentials import Credentials, require_protected
from embery.rpc.server_client import ServerClient
from embery.rpc.serving import RpcServer
from embery.rpc.v1.coordinator_pb2_grpc import add_CoordinatorServicer_to_server
from embery.validation import require_int

if TYPE_CHECKING:
    from embery.observability.metrics import Sample


@dataclass(frozen=True, slots=True)
class CoordinatorOptions:
    """Where a coordinator listens and what it keeps.

    Args:
        host, port: where to listen; port 0 picks a free one.
        state: path of its SQLite file; ":memory:" keeps nothing beyond the process.
        insecure: serve beyond loopback without credentials.
    """

    host: str = "127.0.0.1"
    port: int = 0
    state: str = IN_MEMORY
    insecure: bool = False
    cluster: ClusterOptions = field(default_factory=ClusterOptions)
    credentials: Credentials = field(default_factory=Credentials)

    def validate(self) -> None:
        """Raise `InvalidArgument` or `Unauthenticated` naming the first option that is wrong."""
        require_int("--port", self.port, low=0, high=PORT_MAX)
        self.cluster.validate()
        self.credentials.validate()
        require_protected(self.host, self.credentials, insecure=self.insecure)


class Coordinator:
    """Serves from `__enter__` to `__exit__`."""

    def __init__(self, options: CoordinatorOptions) -> None:
        options.validate()
        self._rpc = RpcServer(options.host, options.port, options.credentials)
        self._cluster = Cluster(
            Database(options.state),
            options.cluster,
            partial(ServerClient, credentials=options.credentials),
        )
        add_CoordinatorServicer_to_server(  # type: ignore[no-untyped-call]
            CoordinatorService(self._cluster), self._rpc.grpc
        )

        self._mover = Mover(self._cluster)

    @property
    def url(self) -> str:
        """Return the address that servers and workers connect to."""
        return SCHEME + self._rpc.address

    def samples(self) -> Iterator[Sample]:
        """Yield its metrics."""
        from embery.coordinator.metrics import samples  # noqa: PLC0415  Prometheus only where it is wanted

        yield from samples(self._cluster)

    def __enter__(self) -> Coordinator:
        """Start to serve."""
        self._cluster.start()
        self._rpc.start()
        self._mover.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop; what was recorded stays."""
        self._mover.stop()
        self._rpc.stop()
        self._cluster.close()
