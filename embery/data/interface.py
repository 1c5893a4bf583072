"""Samples through a network interface of the user's choice: $EMBERY_DATA_INTERFACE.

The kernel's routes choose the interface of a connection, unless its socket is bound to one before.
Arrow's own reader of s3:// opens its sockets in a library that cannot be told so. Where an
interface is named, s3fs reads instead, whose sockets are made here. What cannot be bound is
refused, but for paths: their network, if any, is chosen where they are mounted.
"""

from __future__ import annotations

import importlib
import os
import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from pyarrow import fs as pafs

from embery.errors import InvalidArgument, Unavailable
from embery.place import DATA_INTERFACE_VARIABLE

# Of the options that Arrow takes in a URI's query.
_QUERY = ("endpoint_override", "scheme", "region")


def filesystem_of_uri(uri: str) -> tuple[pafs.FileSystem, str]:
    """Return Arrow's filesystem of a URI, and the path in it.

    Raises:
        InvalidArgument: an interface is named for samples, and this URI cannot be read through it.
    """
    interface = os.environ.get(DATA_INTERFACE_VARIABLE)
    scheme = urlsplit(uri).scheme
    if not interface or scheme == "file":
        filesystem, path = pafs.FileSystem.from_uri(uri)
        return filesystem, path
    if scheme != "s3":
        raise InvalidArgument(
            f"{uri}: {DATA_INTERFACE_VARIABLE}={interface} can be kept for s3:// only; unset "
            "it and set a route to the storage, or give a filesystem= whose sockets are bound"
        )
    return _bound_s3(uri, interface)


def _bound_s3(uri: str, interface: str) -> tuple[pafs.FileSystem, str]:
    parts = urlsplit(uri)
    query = dict(parse_qsl(parts.query))
    unknown = sorted(set(query).difference(_QUERY))
    if unknown or "@" in parts.netloc:
        raise InvalidArgument(
            f"{uri}: with {DATA_INTERFACE_VARIABLE} a URI has no options but {_QUERY}, got "
            f"{unknown or 'credentials'}; AWS_* variables say the rest"
        )
    try:
        s3fs = importlib.import_module("s3fs")
    except ImportError as error:
        raise InvalidArgument(
            f"{uri}: to read through {DATA_INTERFACE_VARIABLE}={interface} takes s3fs ({error}); "
            "pip install s3fs"
        ) from None
    endpoint = query.get("endpoint_override")
    options = {
        "endpoint_url": endpoint and f"{query.get('scheme', 'https')}://{endpoint}",
        "region_name": query.get("region"),
    }
    made = s3fs.S3FileSystem(
        client_kwargs={name: value for name, value in options.items() if value},
        config_kwargs={"connector_args": {"socket_factory": socket_of(interface)}},
    )
    path = parts.netloc + unquote(parts.path)
    return pafs.PyFileSystem(pafs.FSSpecHandler(made)), path


def socket_of(interface: str) -> Callable[[Any], socket.socket]:
    """Return what makes sockets that are bound to an interface, as `aiohttp.TCPConnector` takes it.

    Raises:
        InvalidArgument: this machine has no such interface.
    """
    known = [name for _, name in socket.if_nameindex()]
    if interface not in known:
        raise InvalidArgument(
            f"{DATA_INTERFACE_VARIABLE}: this machine has no interface {interface!r}, but "
            + ", ".join(known)
        )

    def make(info: Any) -> socket.socket:
        """Make a socket for an entry of `getaddrinfo`."""
        family, kind, protocol = info[:3]
        made = socket.socket(family, kind, protocol)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode() + b"\0")
        except OSError as error:
            made.close()
            raise Unavailable(
                f"a socket cannot be bound to {interface}: {error.strerror}; kernels before 5.7 "
                "ask for CAP_NET_RAW"
            ) from error
        return made

    return make
