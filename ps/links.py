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
        # It has no identity of its own: frames carry that of this server.
        client = _native.Client(0)
        is_connected = is_silent = False
        with closing(ServerClient(address, self.credentials, FRAME_TIMEOUT_S)) as server:
            while not self._stopping.is_set():
                frame = native.next_copy_frame(number, IDLE_S)
                if frame is None:
                    if self._retire(number):
                        return
                    continue
                if not frame[1]:
                    continue
                try:
                    if not is_connected:
                        wanted = os.environ.get(TRANSPORT_VARIABLE) or "auto"
                        connect(client, number, server, wanted, FRAME_TIMEOUT_S)
                        is_connected = True
                    refused = client.send_copy(number, frame[1], FRAME_TIMEOUT_S)
                except EmberyError as error:
                    is_connected = is_connected and not isinstance(
                        error, Unavailable | DeadlineExceeded
                    )
                    if not is_silent:
                        log.warning(
                            "server %d does not take in copies; it is tried again: %s",
                            number, error,
                        )  # fmt: skip
                    is_silent = True
                    self._stopping.wait(RETRY_S)
                    continue
                is_silent = False
                if refused:
                    log.warning(
                        "another server owns slots of this one by a newer routing",
                        extra=facts(said_by=number),
                    )
                    native.refuse_copy(number)
                else:
                    native.acknowledge_copy(number, frame[0])

    def _retire(self, number: int) -> bool:
        with self._lock:
            if number in self._tables.native.copy_lag():
                return False
            del self._links[number]
            return True
