"""Who is served: with a token, with certificates, and nobody else, with one clear message."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from embery.errors import InvalidArgument, Unauthenticated, Unavailable
from embery.rpc.channel import PROTOCOL_KEY
from embery.rpc.client import CoordinatorClient
from embery.rpc.credentials import Credentials
from embery.rpc.v1 import coordinator_pb2, coordinator_pb2_grpc

Start = Callable[..., Any]


def tokens(folder: Path) -> tuple[str, str]:
    """Write two tokens; return their files."""
    paths = [folder / "token", folder / "wrong"]
    for path in paths:
        path.write_text(f"{path.name}-with-enough-bytes\n")
    return str(paths[0]), str(paths[1])


def tls(certificates: dict[str, Path], ca: str = "ca") -> list[str]:
    """Return the arguments of a role that shows a certificate and trusts `ca`."""
    files = {"cert": certificates["cert"], "key": certificates["key"], "ca": certificates[ca]}
    return [word for name, path in files.items() for word in (f"--tls-{name}", str(path))]


def assert_one_message(role: Any, *parts: str) -> None:
    """The role has failed with one line that says all parts."""
    code, errors = role.finish()
    assert code == 1, errors
    assert errors.count("\n") == 1, errors
    assert errors.startswith("embery: error: ")
    for part in parts:
        assert part in errors


def test_the_right_token_is_served(start: Start, start_coordinator: Start, tmp_path: Path) -> None:
    token, _ = tokens(tmp_path)
    _, url = start_coordinator("--token-file", token)
    assert start("ps", "--coordinator", url, EMBERY_TOKEN_FILE=token).line().startswith("ps 0 ")
    status = start("status", "--store", url, "--token-file", token, "--json")
    assert status.line() == "{"
    assert status.finish() == (0, "")
    with pytest.raises(Unauthenticated, match="the token is missing"):
        CoordinatorClient(url, Credentials()).status()


def test_a_wrong_token_is_refused(start: Start, start_coordinator: Start, tmp_path: Path) -> None:
    token, wrong = tokens(tmp_path)
    _, url = start_coordinator("--token-file", token)
    role = start("ps", "--coordinator", url, "--token-file", wrong)
    assert_one_message(role, "the token is wrong")


def test_certificates_of_one_authority_are_served(
    start: Start, start_coordinator: Start, certificates: dict[str, Path]
) -> None:
    coordinator, url = start_coordinator(*tls(certificates))
    server = start("ps", "--coordinator", url, *tls(certificates))
    assert server.line().startswith("ps 0 ready")
    credentials = Credentials(
        tls_cert=str(certificates["cert"]),
        tls_key=str(certificates["key"]),
        tls_ca=str(certificates["ca"]),
    )
    client = CoordinatorClient(url, credentials)
    assert client.routing().owners.max() == 0
    client.close()
    assert server.finish(signal.SIGTERM)[0] == 0
    assert coordinator.finish(signal.SIGTERM)[0] == 0


def test_a_certificate_of_another_authority_is_refused(
    start: Start, start_coordinator: Start, certificates: dict[str, Path]
) -> None:
    _, url = start_coordinator(*tls(certificates))
    role = start("ps", "--coordinator", url, *tls(certificates, ca="other_ca"))
    assert_one_message(role, "--tls-ca", "certificate")


def test_a_caller_without_certificate_is_refused(
    start_coordinator: Start, certificates: dict[str, Path]
) -> None:
    _, url = start_coordinator(*tls(certificates))
    client = CoordinatorClient(url, Credentials(tls_ca=str(certificates["ca"])))
    with pytest.raises(Unavailable, match="certificate"):
        client.status()
    client.close()


def test_plaintext_to_a_tls_port_says_so(
    start: Start, start_coordinator: Start, certificates: dict[str, Path]
) -> None:
    _, url = start_coordinator(*tls(certificates))
    assert_one_message(start("ps", "--coordinator", url), "speaks TLS", "--tls-ca")


def test_tls_to_a_plaintext_port_says_so(
    start: Start, start_coordinator: Start, certificates: dict[str, Path]
) -> None:
    _, url = start_coordinator()
    assert_one_message(start("ps", "--coordinator", url, *tls(certificates)), "plaintext")


def test_without_credentials_only_loopback_is_served(start: Start) -> None:
    assert_one_message(start("coordinator", "--host", "0.0.0.0"), "--insecure", "--token-file")
    role = start("coordinator", "--host", "0.0.0.0", "--insecure")
    assert role.line().startswith("coordinator ready at embery://0.0.0.0:")


def test_another_version_of_the_protocol_is_refused(start_coordinator: Start) -> None:
    _, url = start_coordinator()
    with grpc.insecure_channel(url.removeprefix("embery://")) as channel:
        stub: Any = coordinator_pb2_grpc.CoordinatorStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Status(
                coordinator_pb2.StatusRequest(), timeout=10, metadata=((PROTOCOL_KEY, "999"),)
            )
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "version 999 of the protocol, expected 1" in caught.value.details()


def test_a_token_that_is_too_short_is_refused(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("short")
    with pytest.raises(InvalidArgument, match="at least 16"):
        Credentials(token_file=str(path)).validate()
    assert_one_message(start("coordinator", "--token-file", str(path)), "at least 16", str(path))
