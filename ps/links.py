"""Carries what this server tells the servers that hold copies of its slots."""

from __future__ import annotations

import logging
import os
import threading
from contextlib import closing

from embery import _native
from embery.errors import DeadlineExceeded, EmberyError, Unavailable
from embery.observability.logs import facts
from embery.ps.tables import ServedTables
from embery.rpc.credentials import Credentials
from embery.rpc.records import Routing
from embery.rpc.server_client import ServerClient
from embery.rpc.transports import TRANSPORT_VARIABLE, connect

log = logging.getLogger(__name__)

# Another server has so long to take in a frame, and to negotiate.
FRAME_TIMEOUT_S = 10.0
# So long a link stays when the other server follows no longer.
IDLE_S = 1.0
# Until a frame that could not be sent is sent again.
RETRY_S = 0.02
STOP_TIMEOUT_S = 5.0


class Links:
    """A thread for each server that holds copies. Thread-safe."""

    def __init__(self, tables: ServedTables, credentials: Credentials) -> None:
        self._tables = tables
        self.credentials = credentials
        self._lock = threading.Lock()
        self._links: dict[int, threading.Thread] = {}
        self._stopping = threading.Event()

    def follow(self, routing: Routing) -> None:
        """Link to all servers that have copies by `routing`."""
        for number in self._tables.native.copy_lag():
            info = routing.servers.get(number)
            if info is not None:
                self.open(number, info.address)

    def open(self, number: int, address: str) -> None:
        """Link to a server; a no-op if there is a link."""
        with self._lock:
            if number in self._links or self._stopping.is_set():
                return
            link = threading.Thread(
                target=self._carry, args=(number, address), name=f"embery-link-{number}"
            )
            self._links[number] = link
            link.start()

    def close(self) -> None:
        """End all links; the native server must have been stopped."""
        self._stopping.set()
        with self._lock:
            links = list(self._links.values())
        for link in links:
            link.join(STOP_TIMEOUT_S)

    def _carry(self, number: int, address: str) -> None:
        native = self._tables.native
        with closing(ServerClient(address, self.credentials, FRAME_TIMEOUT_S)) as server:
            sender = _Sender(number, server)
            while not self._stopping.is_set():
                frame = native.next_copy_frame(number, IDLE_S)
                if frame is None:
                    if self._retire(number):
                        return
                    continue
                position, body = frame
                refused = sender.send(body) if body else None
                if refused is None:
                    self._stopping.wait(RETRY_S if body else 0.0)
                elif refused:
                    log.warning(
                        "another server owns slots of this one by a newer routing",
                        extra=facts(said_by=number),
                    )
                    native.refuse_copy(number)
                else:
                    native.acknowledge_copy(number, position)

    def _retire(self, number: int) -> bool:
        with self._lock:
            if number in self._tables.native.copy_lag():
                return False
            del self._links[number]
            return True


class _Sender:
    """Sends frames to a server, and says once that it cannot."""

    def __init__(self, number: int, server: ServerClient) -> None:
        # It has no identity of its own: frames carry that of this server.
        self._client = _native.Client(0)
        self._number, self._server = number, server
        self._is_connected = self._has_told = False

    def send(self, body: bytes) -> int | None:
        """Return how many slots of a frame were refused; None if it did not get there."""
        try:
            if not self._is_connected:
                wanted = os.environ.get(TRANSPORT_VARIABLE) or "auto"
                connect(self._client, self._number, self._server, wanted, FRAME_TIMEOUT_S)
                self._is_connected = True
            refused = self._client.send_copy(self._number, body, FRAME_TIMEOUT_S)
        except EmberyError as error:
            if isinstance(error, Unavailable | DeadlineExceeded):
                self._is_connected = False
            if not self._has_told:
                log.warning(
                    "server %d does not take in copies; it is tried again: %s", self._number, error
                )
            self._has_told = True
            return None
        self._has_told = False
        return refused
