"""The serving side of gRPC: binds an address, checks callers, turns errors into status codes."""

from __future__ import annotations

import functools
import hmac
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from embery.errors import EmberyError, InvalidArgument, Unavailable
from embery.rpc.about import AboutService
from embery.rpc.address import join_address
from embery.rpc.channel import (
    AUTHORIZATION_KEY,
    MESSAGE_BYTES_MAX,
    PROTOCOL,
    PROTOCOL_KEY,
)
from embery.rpc.credentials import Credentials
from embery.rpc.status import code_of
from embery.rpc.v1.about_pb2_grpc import add_AboutServicer_to_server

log = logging.getLogger(__name__)

# Threads start when they are needed. Calls that wait (for a pause, a routing, the other workers of
# a round) each keep one, so there must be more than two a worker.
THREADS_MAX = 2112
STOP_GRACE_S = 2.0
_OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    # Two processes on one port would each get some of the calls.
    ("grpc.so_reuseport", 0),
)


class RpcServer:
    """A gRPC server that is bound when it is made, and serves from `start` on; also `About`.

    Args:
        host, port: where to listen; port 0 picks a free one.
        credentials: whom to serve. Whether `host` may be served with them is for the caller to
            check, by `require_protected`.

    Raises:
        Unavailable: the address cannot be bound.
    """

    def __init__(self, host: str, port: int, credentials: Credentials) -> None:
        credentials.validate()
        self.grpc = grpc.server(
            ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="embery-rpc"),
            interceptors=[_Guard(credentials.token())],
            options=_OPTIONS,
        )
        add_AboutServicer_to_server(AboutService(), self.grpc)  # type: ignore[no-untyped-call]
        address = join_address(host, port)
        try:
            if credentials.tls_cert is None:
                self.port = self.grpc.add_insecure_port(address)
            else:
                self.port = self.grpc.add_secure_port(address, server_credentials(credentials))
        except RuntimeError as error:
            raise Unavailable(
                f"cannot listen at {address}: the port is in use, or the host is not of this "
                f"machine; --port 0 picks a free port ({error})"
            ) from None
        self.address = join_address(host, self.port)

    def start(self) -> None:
        """Serve; the services were added to `grpc` before."""
        self.grpc.start()

    def stop(self) -> None:
        """Refuse new calls, give those under way a moment, then end them; returns when all is."""
        self.grpc.stop(STOP_GRACE_S).wait(2 * STOP_GRACE_S)


def server_credentials(credentials: Credentials) -> grpc.ServerCredentials:
    """Return what a server with a certificate shows, and asks of its callers if it has `tls_ca`."""
    key, certificate = credentials.read("tls_key"), credentials.read("tls_cert")
    authority = credentials.read("tls_ca")
    assert key is not None
    assert certificate is not None
    return grpc.ssl_server_credentials(
        [(key, certificate)], authority, require_client_auth=authority is not None
    )


class _Guard(grpc.ServerInterceptor):
    """Refuses callers that speak another version of the protocol, or do not know the token."""

    def __init__(self, token: str | None) -> None:
        self._expected = None if token is None else f"Bearer {token}".encode()

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """Return the handler of a call, or one that refuses it."""
        given = dict(handler_call_details.invocation_metadata)
        if self._expected is not None:
            shown = str(given.get(AUTHORIZATION_KEY, "")).encode()
            if not hmac.compare_digest(shown, self._expected):
                problem = "is wrong" if shown else "is missing"
                return _refusal(
                    grpc.StatusCode.UNAUTHENTICATED,
                    f"the token {problem}; give the cluster's by --token-file or EMBERY_TOKEN_FILE",
                )
        version = given.get(PROTOCOL_KEY, "none")
        if version != str(PROTOCOL):
            return _refusal(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"the caller speaks version {version} of the protocol, expected {PROTOCOL}; "
                "install the same version of embery everywhere",
            )
        return continuation(handler_call_details)


def _refusal(code: grpc.StatusCode, details: str) -> Any:
    def refuse(_: Any, context: grpc.ServicerContext) -> Any:
        context.abort(code, details)

    # Of all kinds only this one reads no request before it answers.
    return grpc.stream_unary_rpc_method_handler(refuse)


def answering(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Make a handler's errors the status of its call."""

    @functools.wraps(handler)
    def answer(self: Any, request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return handler(self, request, context)
        except Exception as error:
            _abort(context, error)

    return answer


def streaming(handler: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """Make the errors of a handler that yields the status of its call."""

    @functools.wraps(handler)
    def answer(self: Any, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        try:
            yield from handler(self, request, context)
        except Exception as error:
            _abort(context, error)

    return answer


def _abort(context: grpc.ServicerContext, error: Exception) -> None:
    if isinstance(error, EmberyError):
        context.abort(code_of(error), str(error))
    if not context.is_active():
        # The caller has gone: there is nobody to tell, and the error is of that.
        raise error
    log.exception("a call failed in a way that it must not")
    context.abort(grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}; see the log")


def require_frame_size(total: int, limit: int) -> None:
    """Raise `InvalidArgument` if the chunks of a frame are more than may be kept."""
    if total > limit:
        raise InvalidArgument(f"a frame of more than {limit} bytes; send fewer keys at once")
