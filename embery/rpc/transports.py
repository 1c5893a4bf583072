"""The ways in which rows travel between a worker and a server, and the choice of one."""

from __future__ import annotations

import os
from collections.abc import Callable

from embery import _native
from embery.errors import DeadlineExceeded, InvalidArgument, Unavailable
from embery.rpc.address import address_of_interface
from embery.rpc.server_client import ServerClient, Terms
from embery.rpc.v1 import server_pb2 as s

# "auto" is the first of the others that both ends have.
TRANSPORTS = ("auto", "shm", "rdma", "tcp", "grpc")
TRANSPORT_VARIABLE = "EMBERY_TRANSPORT"
# The network interface for rows and gradients over TCP; unset, the system's routes decide.
GRAD_INTERFACE_VARIABLE = "EMBERY_GRAD_INTERFACE"
# Which RDMA device and GID of its port a process uses; unset, the first that is fit.
RDMA_DEVICE_VARIABLE = "EMBERY_RDMA_DEVICE"
RDMA_GID_INDEX_VARIABLE = "EMBERY_RDMA_GID_INDEX"
GIDS_MAX = 256


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
                _CONNECT[name](client, server, offer, terms, timeout_s)
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


def rdma_choice() -> tuple[str, int]:
    """Return the device's name and the GID's index that the environment asks for.

    Returns:
        "" and -1 where it leaves the choice open.

    Raises:
        InvalidArgument: the index is not a number of a GID.
    """
    index = os.environ.get(RDMA_GID_INDEX_VARIABLE) or "-1"
    if index != "-1" and not (index.isascii() and index.isdigit() and int(index) < GIDS_MAX):
        raise InvalidArgument(
            f"{RDMA_GID_INDEX_VARIABLE}: expected 0 to {GIDS_MAX - 1}, got {index!r}; see "
            "/sys/class/infiniband/DEVICE/ports/1/gids"
        )
    return os.environ.get(RDMA_DEVICE_VARIABLE, ""), int(index)


def _connect_tcp(
    client: _native.Client, server: ServerClient, offer: s.Offer, terms: Terms, timeout_s: float
) -> None:
    interface = os.environ.get(GRAD_INTERFACE_VARIABLE)
    client.connect_tcp(
        terms.number,
        offer.tcp.host,
        offer.tcp.port,
        terms.secret,
        timeout_s,
        bind=address_of_interface(interface) if interface else None,
    )


def _connect_shm(
    client: _native.Client, server: ServerClient, offer: s.Offer, terms: Terms, timeout_s: float
) -> None:
    client.connect_shm(terms.number, offer.shm.socket, terms.secret, timeout_s)


def _connect_rdma(
    client: _native.Client, server: ServerClient, offer: s.Offer, terms: Terms, timeout_s: float
) -> None:
    device, gid_index = rdma_choice()
    client.connect_rdma(
        terms.number, server.connect_rdma, terms.secret, timeout_s, device, gid_index
    )


_CONNECT: dict[str, Callable[[_native.Client, ServerClient, s.Offer, Terms, float], None]] = {
    "shm": _connect_shm,
    "rdma": _connect_rdma,
    "tcp": _connect_tcp,
}
