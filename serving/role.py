"""An inference server as a whole: its versions, its batches, and HTTP and gRPC at two ports."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import grpc.aio
import uvicorn
import uvloop

from embery.errors import Unavailable
from embery.rpc.address import PORT_MAX, join_address
from embery.rpc.credentials import Credentials, require_protected
from embery.rpc.serving import server_credentials
from embery.rpc.v1.inference_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from embery.serving.batching import BatchingOptions
from embery.serving.grpc_api import GrpcApi, TokenGuard
from embery.serving.http_api import HttpApi
from embery.serving.scorer import Scorer
from embery.serving.service import InferenceService
from embery.serving.versions import Versions, Watcher
from embery.validation import require_int, require_range

if TYPE_CHECKING:
    from embery.observability.metrics import Shown

log = logging.getLogger(__name__)

CONNECTIONS_MAX = 4096
REQUEST_BYTES_LIMIT = 1 << 30
START_S = 30.0
# After all requests have ended, for their answers to be sent.
CLOSE_S = 2.0


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """Where an inference server listens, what it serves and how much it takes.

    Args:
        path: a bundle, or a folder of bundles.
        name: of the model in requests; "": that of the folder.
        host, port, grpc_port: where to listen; port 0 picks a free one.
        request_bytes_max: bytes of one request.
        watch_s: how often to look for another version, in seconds; 0 never looks.
        drain_s: how long requests under way may take when the server ends.
        insecure: serve beyond loopback without credentials.
    """

    path: str
    name: str = ""
    host: str = "127.0.0.1"
    port: int = 0
    grpc_port: int = 0
    request_bytes_max: int = 16 << 20
    watch_s: float = 0.5
    drain_s: float = 25.0
    insecure: bool = False
    batching: BatchingOptions = field(default_factory=BatchingOptions)
    credentials: Credentials = field(default_factory=Credentials)

    def validate(self) -> None:
        """Raise `InvalidArgument` or `Unauthenticated` naming the first option that is wrong."""
        require_int("--port", self.port, low=0, high=PORT_MAX)
        require_int("--grpc-port", self.grpc_port, low=0, high=PORT_MAX)
        require_int(
            "--max-request-bytes", self.request_bytes_max, low=1024, high=REQUEST_BYTES_LIMIT
        )
        require_range("--watch", self.watch_s, low=0)
        require_range("--drain", self.drain_s, low=0)
        self.batching.validate()
        self.credentials.validate()
        require_protected(self.host, self.credentials, insecure=self.insecure)


class InferenceServer:
    """Serves from `__enter__` to `__exit__`, which ends what is under way first.

    One thread does all requests, and scores them; another opens new versions.

    Raises:
        Unavailable: a port cannot be bound.
        InvalidArgument, CheckpointCorrupt: there is nothing at `path` that can be served.
    """

    def __init__(self, options: ServeOptions, load: Callable[[Path], Scorer]) -> None:
        options.validate()
        self._options = options
        path = Path(options.path)
        self.versions = Versions(path, load)
        name = options.name or path.resolve().name
        self.service = InferenceService(name, self.versions.current, options.batching)
        self._watcher = Watcher(self.versions, options.watch_s) if options.watch_s else None
        self._socket = _listen(options.host, options.port)
        port = int(self._socket.getsockname()[1])
        scheme = "http" if options.credentials.tls_cert is None else "https"
        self.url = f"{scheme}://{join_address(options.host, port)}"
        self.grpc_address = ""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._started = threading.Event()
        self._problem: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="embery-inference")

    def samples(self) -> Iterator[Shown]:
        """Yield its metrics."""
        from embery.serving.metrics import samples  # noqa: PLC0415  Prometheus only where it is wanted

        yield from samples(self.service, self.versions)

    def __enter__(self) -> InferenceServer:
        """Start to serve."""
        self._thread.start()
        if not self._started.wait(START_S) or self._problem is not None:
            self._socket.close()
            raise self._problem or Unavailable(f"the server did not start within {START_S:g} s")
        if self._watcher is not None:
            self._watcher.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Refuse new requests, end those under way, and stop."""
        if self._watcher is not None:
            self._watcher.stop()
        assert self._loop is not None
        assert self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        try:
            uvloop.run(self._serve())
        except BaseException as problem:
            self._problem = problem
            if self._started.is_set():
                log.exception("the server has failed")
        finally:
            self._started.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        calls = self._grpc_server()
        http = uvicorn.Server(self._http_config())
        await calls.start()
        serving = asyncio.create_task(http.serve(sockets=[self._socket]))
        while not http.started and not serving.done():
            await asyncio.sleep(0.01)
        self._started.set()
        await self._stop.wait()
        if not await self.service.drain(self._options.drain_s):
            log.warning("requests were under way for too long when the server ended")
        http.should_exit = True
        await asyncio.gather(serving, calls.stop(CLOSE_S))

    def _http_config(self) -> uvicorn.Config:
        options, credentials = self._options, self._options.credentials
        app = HttpApi(
            self.service,
            token=credentials.token(),
            request_bytes_max=options.request_bytes_max,
        )
        return uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=CONNECTIONS_MAX,
            timeout_graceful_shutdown=int(CLOSE_S),
            ssl_certfile=credentials.tls_cert,
            ssl_keyfile=credentials.tls_key,
            ssl_ca_certs=credentials.tls_ca if credentials.tls_cert else None,
            ssl_cert_reqs=ssl.CERT_REQUIRED if credentials.tls_ca else ssl.CERT_NONE,
        )

    def _grpc_server(self) -> grpc.aio.Server:
        options, credentials = self._options, self._options.credentials
        token = credentials.token()
        server = grpc.aio.server(
            interceptors=[] if token is None else [TokenGuard(token)],
            options=(
                ("grpc.max_receive_message_length", options.request_bytes_max),
                ("grpc.so_reuseport", 0),
            ),
        )
        add_GRPCInferenceServiceServicer_to_server(  # type: ignore[no-untyped-call]
            GrpcApi(self.service), server
        )
        address = join_address(options.host, options.grpc_port)
        try:
            if credentials.tls_cert is None:
                port = server.add_insecure_port(address)
            else:
                port = server.add_secure_port(address, server_credentials(credentials))
        except RuntimeError as error:
            raise Unavailable(_cannot_listen(address, error)) from None
        self.grpc_address = join_address(options.host, port)
        return server


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=CONNECTIONS_MAX)
    except OSError as error:
        raise Unavailable(_cannot_listen(join_address(host, port), error)) from None


def _cannot_listen(address: str, error: Exception) -> str:
    return (
        f"cannot listen at {address}: the port is in use, or the host is not of this machine; "
        f"port 0 picks a free one ({error})"
    )
