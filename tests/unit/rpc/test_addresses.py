"""Addresses of clusters and roles, and what a credential needs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from embery.errors import Internal, InvalidArgument, Unauthenticated
from embery.rpc.address import (
    address_of,
    address_of_interface,
    host_identity,
    is_loopback,
    is_wildcard,
    join_address,
    split_address,
)
from embery.rpc.credentials import Credentials, require_protected
from embery.rpc.records import Routing, ServerInfo, no_backups, routing_from


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [("127.0.0.1:80", "127.0.0.1", 80), ("[::1]:7070", "::1", 7070), ("name:0", "name", 0)],
)
def test_an_address_is_split_and_joined(address: str, host: str, port: int) -> None:
    assert split_address(address, "x") == (host, port)
    assert join_address(host, port) == address
    assert address_of(f"embery://{address}") == address


@pytest.mark.parametrize("wrong", ["", "host", "host:", ":80", "host:port", "host:70000", "a/b:1"])
def test_a_wrong_address_says_what_it_is_of(wrong: str) -> None:
    with pytest.raises(InvalidArgument, match="server: expected HOST:PORT"):
        split_address(wrong, "server")


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("x.org", False)],
)
def test_only_this_machine_reaches_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


@pytest.mark.parametrize(("host", "wildcard"), [("0.0.0.0", True), ("::", True), ("a.b", False)])
def test_a_wildcard_names_no_address(host: str, wildcard: bool) -> None:
    assert is_wildcard(host) is wildcard


def test_a_host_has_one_identity() -> None:
    assert host_identity({}) == host_identity({}) != ""
    assert host_identity({"EMBERY_HOST_IDENTITY": "a"}) == "a"


def test_an_open_address_needs_credentials(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("0123456789abcdef")
    with pytest.raises(Unauthenticated, match=r"--host 0\.0\.0\.0"):
        require_protected("0.0.0.0", Credentials(), insecure=False)
    # A certificate shows who the server is, and asks nobody who calls.
    with pytest.raises(Unauthenticated):
        require_protected("0.0.0.0", Credentials(tls_cert="a", tls_key="b"), insecure=False)
    for host, credentials, insecure in [
        ("127.0.0.1", Credentials(), False),
        ("0.0.0.0", Credentials(), True),
        ("0.0.0.0", Credentials(token_file=str(token)), False),
        ("0.0.0.0", Credentials(tls_cert="a", tls_key="b", tls_ca="c"), False),
    ]:
        assert require_protected(host, credentials, insecure=insecure) is None


def test_credentials_are_checked_before_they_are_used(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="belong together"):
        Credentials(tls_cert="a").validate()
    with pytest.raises(InvalidArgument, match=r"--tls-ca .*No such file"):
        Credentials(tls_ca=str(tmp_path / "none")).validate()
    assert Credentials.from_environment({"EMBERY_TLS_CA": "x"}).tls_ca == "x"


def test_routing_survives_the_wire() -> None:
    servers = {3: ServerInfo(3, "127.0.0.1:1", "host", "lost")}
    routing = Routing(
        9, np.full(4096, 3, np.uint16), no_backups(), np.arange(4096, dtype=np.uint64), servers
    )
    found = routing_from(routing.to_message())
    assert (found.version, found.servers) == (9, servers)
    assert (found.owners == routing.owners).all()
    assert (found.changed_at == routing.changed_at).all()


def test_a_routing_that_is_not_whole_is_refused() -> None:
    message = Routing(
        1, np.zeros(4096, np.uint16), no_backups(), np.zeros(4096, np.uint64)
    ).to_message()
    del message.owners[-1]
    with pytest.raises(Internal, match="4095 owners"):
        routing_from(message)


def test_an_interface_has_its_address_or_the_known_ones_are_named() -> None:
    assert address_of_interface("lo") == "127.0.0.1"
    with pytest.raises(InvalidArgument, match=r"'nope0' has no IPv4 address.*lo"):
        address_of_interface("nope0")
