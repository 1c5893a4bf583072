"""Addresses: of a cluster, of a role, and of the machine it is on."""

from __future__ import annotations

import fcntl
import ipaddress
import os
import socket
import struct
from collections.abc import Mapping
from pathlib import Path

from embery.errors import InvalidArgument

SCHEME = "embery://"
HOST_VARIABLE = "EMBERY_HOST_IDENTITY"
PORT_MAX = 65535
_SIOCGIFADDR = 0x8915  # From linux/sockios.h.


def split_address(address: str, what: str) -> tuple[str, int]:
    """Return host and port of "HOST:PORT" ("[HOST]:PORT" for IPv6).

    Raises:
        InvalidArgument: naming `what` it is the address of.
    """
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or int(port) > PORT_MAX or "/" in address:
        raise InvalidArgument(f"{what}: expected HOST:PORT, got {address!r}")
    return host, int(port)


def join_address(host: str, port: int) -> str:
    """Return "HOST:PORT", with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def address_of(url: str) -> str:
    """Return "HOST:PORT" of "embery://HOST:PORT"; raise `InvalidArgument` for anything else."""
    if not isinstance(url, str) or not url.startswith(SCHEME):
        raise InvalidArgument(f"the URL of a cluster is {SCHEME}HOST:PORT, got {url!r}")
    return join_address(*split_address(url.removeprefix(SCHEME).removesuffix("/"), f"URL {url!r}"))


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_wildcard(host: str) -> bool:
    """Return whether `host` stands for every address of this machine, and so names none."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def address_of_interface(name: str) -> str:
    """Return the IPv4 address of a network interface of this machine.

    Raises:
        InvalidArgument: there is no such interface, or it has no IPv4 address.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        request = struct.pack("256s", name.encode()[:15])
        try:
            reply = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)
        except OSError as error:
            known = ", ".join(interface for _, interface in socket.if_nameindex())
            raise InvalidArgument(
                f"interface {name!r} has no IPv4 address ({error.strerror}); this machine has "
                f"{known}"
            ) from None
    return socket.inet_ntoa(reply[20:24])


def host_identity(environment: Mapping[str, str] = os.environ) -> str:
    """Return what is equal for two processes on one machine, in containers or not.

    It is the boot of the kernel, or what `EMBERY_HOST_IDENTITY` says.
    """
    given = environment.get(HOST_VARIABLE)
    return given or Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
