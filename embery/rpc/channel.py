"""One connection to a role: every call has a deadline, every error is one of Embery's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from embery.errors import EmberyError
from embery.rpc.credentials import Credentials
from embery.rpc.status import exception_of

# Changes when a message changes in a way that an older peer would misread.
PROTOCOL = 1
PROTOCOL_KEY = "embery-protocol"
AUTHORIZATION_KEY = "authorization"
# Deadline of a call that names none of its own.
TIMEOUT_S = 10.0
# The other side answers a call that waits by itself; this much later the caller gives up on it.
WAIT_GRACE_S = 5.0
CHUNK_BYTES = 1 << 20
# A chunk of the data path and what protobuf puts around it; control messages are smaller.
MESSAGE_BYTES_MAX = 16 << 20
CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    # A proxy of the environment is for the world outside, not between the roles of a cluster.
    ("grpc.enable_http_proxy", 0),
    # A role that was started again must be found at once, not after gRPC's two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    # Also the time that an attempt to connect may take, of which a busy machine needs some.
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


class Channel:
    """A gRPC channel to one role. Thread-safe; connects when it is first used.

    Args:
        address: "HOST:PORT".
        credentials: what to show and to expect; None shows nothing and speaks plaintext.
        role: how messages name the other side, such as "server 1".
    """

    def __init__(self, address: str, credentials: Credentials | None, *, role: str) -> None:
        credentials = credentials or Credentials()
        credentials.validate()
        self.peer = f"{role} at {address}"
        self._tls = credentials.tls
        token = credentials.token()
        self.metadata: tuple[tuple[str, str], ...] = ((PROTOCOL_KEY, str(PROTOCOL)),)
        if token is not None:
            self.metadata += ((AUTHORIZATION_KEY, f"Bearer {token}"),)
        if self._tls:
            secure = grpc.ssl_channel_credentials(
                credentials.read("tls_ca"),
                credentials.read("tls_key"),
                credentials.read("tls_cert"),
            )
            self.grpc = grpc.secure_channel(address, secure, options=CHANNEL_OPTIONS)
        else:
            self.grpc = grpc.insecure_channel(address, options=CHANNEL_OPTIONS)

    def call(
        self,
        method: Callable[..., Any],
        request: Any,
        timeout_s: float,
        *,
        what: str,
        wait_for_ready: bool = False,
    ) -> Any:
        """Call `method` of a stub on this channel; `what` says in an error what was tried.

        With `wait_for_ready` the call waits for a connection until its deadline. Only while a call
        waits does gRPC get on with one: calls that fail at once would seldom let it come about.

        Raises:
            EmberyError: what the other side answered, `Unavailable` if it cannot be reached, or
                `DeadlineExceeded`.
        """
        with self.errors(what):
            return method(
                request, timeout=timeout_s, metadata=self.metadata, wait_for_ready=wait_for_ready
            )

    @contextmanager
    def errors(self, what: str) -> Iterator[None]:
        """Turn an error of gRPC into one of Embery."""
        try:
            yield
        except grpc.RpcError as error:
            raise self._explain(error, what) from None

    def _explain(self, error: grpc.RpcError, what: str) -> EmberyError:
        code, details = error.code(), error.details() or "no details"
        if code is grpc.StatusCode.DEADLINE_EXCEEDED and details == "Deadline Exceeded":
            details = "no answer within the deadline"
        if code is grpc.StatusCode.UNAVAILABLE:
            details = self._reason(details)
        if code is grpc.StatusCode.CANCELLED:
            code, details = grpc.StatusCode.UNAVAILABLE, "the connection was closed meanwhile"
        return exception_of(code, f"{what}: {self.peer}: {details}")

    def _reason(self, details: str) -> str:
        """Say in plain words why no connection came about; other details are left as they are."""
        if "onnection refused" in details:
            return "nothing listens there (connection refused); start it, or correct the address"
        if "CERTIFICATE_VERIFY_FAILED" in details or "certificate verify failed" in details:
            return (
                "its certificate does not come from the authority in --tls-ca, or is not for this "
                f"address ({details})"
            )
        if "WRONG_VERSION_NUMBER" in details:
            return (
                "it speaks plaintext, and this side TLS; leave out --tls-*, or start it with them"
            )
        lost = ("Socket closed", "onnection reset", "FD Shutdown", "Broken pipe", "handshake")
        if any(sign in details for sign in lost):
            hint = (
                "it may refuse this side's certificate, or speak plaintext; check --tls-cert, "
                "--tls-key and --tls-ca"
                if self._tls
                else "it has ended, or speaks TLS; then give --tls-ca"
            )
            return f"the connection was closed ({details}): {hint}"
        if "DNS" in details or "Name or service" in details or "name resolution" in details:
            return f"its host is unknown ({details}); correct the address"
        return details

    def close(self) -> None:
        """Close the channel; calls under way fail."""
        self.grpc.close()
