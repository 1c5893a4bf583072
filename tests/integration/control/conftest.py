from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return an authority, "cert" and "key" of a role from it, and "other_ca", a stranger."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the command openssl (Debian package openssl)")
    folder = tmp_path_factory.mktemp("tls")
    paths = {name: folder / f"{name}.pem" for name in ("ca", "other_ca", "cert", "key")}

    def openssl(*arguments: str | Path) -> None:
        subprocess.run(
            ["openssl", *map(str, arguments)], check=True, capture_output=True, cwd=folder
        )

    def authority(name: str) -> None:
        openssl(
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
            "-keyout", f"{name}.key", "-out", paths[name],
        )  # fmt: skip

    authority("ca")
    authority("other_ca")
    openssl(
        "req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=role",
        "-keyout", paths["key"], "-out", "role.csr",
    )  # fmt: skip
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1")
    openssl(
        "x509", "-req", "-in", "role.csr", "-CA", paths["ca"], "-CAkey", "ca.key", "-days", "2",
        "-CAcreateserial", "-extfile", "names", "-out", paths["cert"],
    )  # fmt: skip
    return paths
