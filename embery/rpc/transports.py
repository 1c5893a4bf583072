"""The ways in which rows travel between a worker and a server, and the choice of one."""

from __future__ import annotations

from collections.abc import Callable

from embery import _native
from embery.errors import DeadlineExceeded, Unavailable
from embery.rpc.client import ServerClient, Terms
from embery.rpc.v1 import server_pb2 as s

# "auto" is the first of the others that both ends have.
TRANSPORTS = ("auto", "shm", "tcp", "grpc")
TRANSPORT_VARIABLE = "EMBERY_TRANSPORT"


def connect(
    client: _native.Client, number: int, server: ServerClient, wanted: str, timeout_s: float
) -> tuple[str, list[str]]:
    """Connect to a server by the best transport, or by the one that is wanted.

    Returns:
        the transport's name, and a line for each that was passed over.

    Raises:
        Unavailable: the transport that is wanted cannot be had; the message says why.
        DeadlineExceeded: the server did not say in time what it has.
    """
    terms = server.negotiate()
    if wanted == "grpc":
        reasons = [f"{name}: grpc was asked for" for name in TRANSPORTS[1:-1]]
    else:
        reasons = list(terms.reasons)
        for offer in terms.offers:
            name = offer.WhichOneof("transport")
            if name not in _CONNECT or wanted not in ("auto", name):
                continue
            try:
                _CONNECT[name](client, number, offer, terms, timeout_s)
            except (Unavailable, DeadlineExceeded) as error:
                reasons.append(f"{name}: {error}")
            else:
                return name, reasons
        if wanted != "auto":
            own = [reason for reason in reasons if reason.startswith(f"{wanted}: ")]
            raise Unavailable(
                f"transport {wanted} to server {number} at {server.address} was asked for and "
                f"cannot be had: {own[0] if own else 'the server does not offer it'}"
            )
    client.connect_call(number, server.call)
    return "grpc", reasons


def _connect_tcp(
    client: _native.Client, number: int, offer: s.Offer, terms: Terms, timeout_s: float
) -> None:
    client.connect_tcp(number, offer.tcp.host, offer.tcp.port, terms.secret, timeout_s)


def _connect_shm(
    client: _native.Client, number: int, offer: s.Offer, terms: Terms, timeout_s: float
) -> None:
    client.connect_shm(number, offer.shm.socket, terms.secret, timeout_s)


_CONNECT: dict[str, Callable[[_native.Client, int, s.Offer, Terms, float], None]] = {
    "shm": _connect_shm,
    "tcp": _connect_tcp,
}
