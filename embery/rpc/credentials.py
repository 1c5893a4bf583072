"""Who may speak to a cluster: a token, certificates of both sides, or nobody but this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from embery.errors import InvalidArgument, Unauthenticated
from embery.rpc.address import is_loopback

TOKEN_BYTES_MIN = 16
# Field of `Credentials` -> the variable that sets it where no argument does.
VARIABLES = {
    "token_file": "EMBERY_TOKEN_FILE",
    "tls_cert": "EMBERY_TLS_CERT",
    "tls_key": "EMBERY_TLS_KEY",
    "tls_ca": "EMBERY_TLS_CA",
}


@dataclass(frozen=True, slots=True)
class Credentials:
    """Paths of what a role shows to others and expects of them; None where it has none.

    Args:
        token_file: file of one line that every caller must know; at least 16 bytes.
        tls_cert, tls_key: certificate chain and private key of this role, PEM. A server without
            them speaks plaintext.
        tls_ca: certificates of the authorities that the other side's must come from, PEM. A server
            that has it asks every caller for a certificate.
    """

    token_file: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_ca: str | None = None

    @staticmethod
    def from_environment(environment: Mapping[str, str] = os.environ) -> Credentials:
        """Return the credentials that `EMBERY_TOKEN_FILE` and `EMBERY_TLS_*` name."""
        given = {field: environment.get(name) or None for field, name in VARIABLES.items()}
        return Credentials(**given)

    @property
    def tls(self) -> bool:
        """Return whether connections are encrypted."""
        return self.tls_ca is not None or self.tls_cert is not None

    def validate(self) -> None:
        """Raise `InvalidArgument` naming the first field that is wrong."""
        if (self.tls_cert is None) != (self.tls_key is None):
            raise InvalidArgument("--tls-cert and --tls-key belong together: give both or neither")
        for field in VARIABLES:
            self.read(field)
        token = self.token()
        if token is not None and (len(token) < TOKEN_BYTES_MIN or not token.isascii()):
            raise InvalidArgument(
                f"--token-file {self.token_file}: the token must be at least {TOKEN_BYTES_MIN} "
                f"ASCII characters, got {len(token)}"
            )

    def token(self) -> str | None:
        """Return the token, without the white space around it."""
        content = self.read("token_file")
        return None if content is None else content.decode("utf-8", "replace").strip()

    def read(self, field: str) -> bytes | None:
        """Return what the file of a field holds; raise `InvalidArgument` if it cannot be read."""
        path = getattr(self, field)
        if path is None:
            return None
        try:
            return Path(path).read_bytes()
        except OSError as error:
            option = f"--{field.replace('_', '-')}"
            raise InvalidArgument(f"{option} {path}: {error.strerror}") from None


def require_protected(host: str, credentials: Credentials, *, insecure: bool) -> None:
    """Raise `Unauthenticated` if anyone beyond this machine could call, unasked, at `host`."""
    known = credentials.token_file is not None or (
        credentials.tls_cert is not None and credentials.tls_ca is not None
    )
    if not (known or insecure or is_loopback(host)):
        raise Unauthenticated(
            f"--host {host} can be reached from other machines, and no credentials are set; give "
            "--token-file, or --tls-cert, --tls-key and --tls-ca, or --insecure to serve anyone"
        )
