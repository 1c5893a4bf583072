"""One table: status code of Embery <-> gRPC code <-> exception."""

from __future__ import annotations

import grpc

from embery.errors import FROM_STATUS, EmberyError, Internal

# The names of `embery.errors.FROM_STATUS`, which has the exceptions.
TO_GRPC: dict[str, grpc.StatusCode] = {
    "INVALID_ARGUMENT": grpc.StatusCode.INVALID_ARGUMENT,
    "SCHEMA_MISMATCH": grpc.StatusCode.ALREADY_EXISTS,
    "TABLE_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "UNAVAILABLE": grpc.StatusCode.UNAVAILABLE,
    "DEADLINE_EXCEEDED": grpc.StatusCode.DEADLINE_EXCEEDED,
    "UNAUTHENTICATED": grpc.StatusCode.UNAUTHENTICATED,
    "CHECKPOINT_CORRUPT": grpc.StatusCode.DATA_LOSS,
    "RESOURCE_EXHAUSTED": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "INTERNAL": grpc.StatusCode.INTERNAL,
}
_FROM_GRPC = {code: FROM_STATUS[name] for name, code in TO_GRPC.items()}
_NAMES = {kind: name for name, kind in FROM_STATUS.items()}


def code_of(error: EmberyError) -> grpc.StatusCode:
    """Return the gRPC code that stands for an exception."""
    return TO_GRPC[_NAMES[type(error)]]


def exception_of(code: grpc.StatusCode, message: str) -> EmberyError:
    """Return the exception of a gRPC code; `Internal` for one that Embery never sends."""
    kind = _FROM_GRPC.get(code)
    return Internal(f"{message} (gRPC code {code.name})") if kind is None else kind(message)
