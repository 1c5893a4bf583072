"""A server as a whole: registers, serves, says that it is there, and leaves.

The order matters: a server is bound before it registers, for others learn its address by that; it
serves before its first heartbeat, for from then on it is told of tables and slots.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING

from embery.errors import DeadlineExceeded, EmberyError, InvalidArgument, Unavailable
from embery.observability.logs import facts
from embery.ps.links import Links
from embery.ps.service import DataPlane, ServerService
from embery.ps.tables import ServedTables
from embery.rpc.address import (
    PORT_MAX,
    address_of_interface,
    host_identity,
    is_loopback,
    is_wildcard,
    join_address,
)
from embery.rpc.client import Beat, CoordinatorClient, ServerGrant
from embery.rpc.credentials import Credentials, require_protected
from embery.rpc.heartbeat import Heartbeat
from embery.rpc.serving import RpcServer
from embery.rpc.transports import rdma_choice
from embery.rpc.v1 import server_pb2 as s
from embery.rpc.v1.server_pb2_grpc import add_ServerServicer_to_server
from embery.validation import require_int

if TYPE_CHECKING:
    from embery.observability.metrics import Shown

log = logging.getLogger(__name__)

THREADS_MAX = 1024
POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Where a server listens and whom it belongs to.

    Args:
        coordinator: "embery://HOST:PORT".
        host, port: where to listen, also for data; port 0 picks a free one. Others reach the server
            at this address, so it must not be a wildcard.
        data_port: of the tcp data plane; 0 picks a free one.
        grad_interface: network interface of the tcp data plane; "" is that of `host`.
        threads: that serve rows; 0 is the processors that this process may use.
        insecure: serve beyond loopback without credentials, and rows without encryption.
    """

    coordinator: str
    host: str = "127.0.0.1"
    port: int = 0
    data_port: int = 0
    grad_interface: str = ""
    threads: int = 0
    insecure: bool = False
    credentials: Credentials = field(default_factory=Credentials)

    def validate(self) -> None:
        """Raise `InvalidArgument` or `Unauthenticated` naming the first option that is wrong."""
        require_int("--port", self.port, low=0, high=PORT_MAX)
        require_int("--data-port", self.data_port, low=0, high=PORT_MAX)
        require_int("--threads", self.threads, low=0, high=THREADS_MAX)
        if is_wildcard(self.host):
            raise InvalidArgument(
                f"--host {self.host}: others reach this server at its --host; give the address of "
                "one interface"
            )
        self.credentials.validate()
        require_protected(self.host, self.credentials, insecure=self.insecure)
        if self.grad_interface:
            address = address_of_interface(self.grad_interface)
            require_protected(address, self.credentials, insecure=self.insecure)


class ParameterServer:
    """Serves from `__enter__` to `__exit__`."""

    def __init__(self, options: ServerOptions) -> None:
        options.validate()
        self._incarnation = uuid.uuid4().hex
        # Set once other servers have all its slots.
        self.drained = threading.Event()
        self._cluster_id = ""
        self._rpc = RpcServer(options.host, options.port, options.credentials)
        self._coordinator = CoordinatorClient(options.coordinator, options.credentials)
        grant = self._register()
        self._cluster_id = grant.cluster_id
        self.number = grant.number
        threads = options.threads or len(os.sched_getaffinity(0))
        self._tables = ServedTables(grant.number, grant.secret, threads)
        self._links = Links(self._tables, options.credentials)
        self.data = self._listen(options)
        self._learn(grant)
        add_ServerServicer_to_server(  # type: ignore[no-untyped-call]
            ServerService(grant.number, self._tables, self._links, self.data, grant.secret),
            self._rpc.grpc,
        )
        self._heartbeat = Heartbeat(
            self._coordinator, self._incarnation, grant.heartbeat_s, self._answered
        )

    @property
    def address(self) -> str:
        """Return where it listens."""
        return self._rpc.address

    def drain(self, wait_s: float, hurried: threading.Event) -> bool:
        """Give all slots to other servers; return whether that was done in time.

        Args:
            wait_s: for so long at most.
            hurried: ends the wait when it is set.
        """
        deadline = time.monotonic() + wait_s
        try:
            slots = self._coordinator.drain(incarnation=self._incarnation)
        except EmberyError as error:
            log.warning("its slots stay here, and end with it: %s", error)
            return False
        log.info("gives its slots away", extra=facts(slots=slots))
        while not self.drained.wait(POLL_S):
            if hurried.is_set() or time.monotonic() > deadline:
                log.warning("ends with slots that are not given away yet")
                return False
        return True

    def samples(self) -> Iterator[Shown]:
        """Yield its metrics."""
        from embery.ps.metrics import samples  # noqa: PLC0415  Prometheus only where it is wanted

        yield from samples(self._tables)

    def __enter__(self) -> ParameterServer:
        """Serve, and say so to the coordinator; returns when it knows."""
        self._rpc.start()
        try:
            self._coordinator.heartbeat(self._incarnation)
        except (Unavailable, DeadlineExceeded) as error:
            # It may know, and have given slots to this server, which must not end with them.
            log.warning("joins when the coordinator answers: %s", error)
        except EmberyError:
            self._stop()
            raise
        self._heartbeat.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the cluster and stop; rows that are still here are gone."""
        self._heartbeat.stop()
        self._stop()

    def _stop(self) -> None:
        # Ends the calls that wait inside, which the service would otherwise wait for.
        self._tables.native.stop()
        self._links.close()
        self._rpc.stop()
        self._coordinator.close()

    def _register(self) -> ServerGrant:
        return self._coordinator.register_server(
            incarnation=self._incarnation,
            address=self._rpc.address,
            host_identity=host_identity(),
            cluster_id=self._cluster_id,
        )

    def _listen(self, options: ServerOptions) -> DataPlane:
        host = (
            address_of_interface(options.grad_interface) if options.grad_interface else options.host
        )
        offers = [s.Offer(shm=s.ShmOffer(socket=self._tables.native.listen_shm()))]
        reasons = []
        if options.credentials.tls and not (is_loopback(host) or options.insecure):
            reasons += [
                f"{transport}: it is not encrypted, and this cluster uses TLS"
                for transport in ("rdma", "tcp")
            ]
        else:
            try:
                device = self._tables.native.listen_rdma(*rdma_choice())
            except Unavailable as error:
                reasons.append(f"rdma: {error}")
            else:
                offers.append(s.Offer(rdma=s.RdmaOffer(device=device)))
                log.info("data plane listens", extra=facts(device=device))
            port = self._tables.native.listen_tcp(host, options.data_port)
            offers.append(s.Offer(tcp=s.TcpOffer(host=host, port=port)))
            log.info("data plane listens", extra=facts(address=join_address(host, port)))
        return DataPlane(tuple(offers), tuple(reasons), host_identity())

    def _learn(self, grant: ServerGrant) -> None:
        """Take over the tables and the routing that the coordinator has."""
        for definition in grant.tables:
            self._tables.create(definition)
        if grant.routing.version:
            self._tables.follow(grant.routing)
            self._links.follow(grant.routing)

    def _answered(self, beat: Beat) -> None:
        """Catch up with a coordinator that knows more than this server, or not this server."""
        self._tables.native.retire_leases(beat.leases_from)
        if beat.drained:
            self.drained.set()
        known = (self._tables.routing_version, self._tables.count)
        if not beat.known or (beat.routing_version, beat.table_count) != known:
            self._learn(self._register())
