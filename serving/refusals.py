"""One table: what a request is refused for <-> HTTP status <-> gRPC code."""

from __future__ import annotations

import grpc

from embery.errors import EmberyError, ResourceExhausted
from embery.rpc.status import code_of


class ModelNotFound(EmberyError, LookupError):
    """No model of this name, or not this version of it, is served."""


class RequestTooLarge(ResourceExhausted):
    """A request has more bytes than the server takes."""


_HTTP_STATUS: dict[grpc.StatusCode, int] = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}


def grpc_code_of(error: EmberyError) -> grpc.StatusCode:
    """Return the gRPC code that says why a request was refused."""
    if isinstance(error, ModelNotFound):
        return grpc.StatusCode.NOT_FOUND
    if isinstance(error, RequestTooLarge):
        return grpc.StatusCode.RESOURCE_EXHAUSTED
    return code_of(error)


def http_status_of(error: EmberyError) -> int:
    """Return the HTTP status that says why a request was refused; 500 for a failure of ours."""
    if isinstance(error, RequestTooLarge):
        return 413
    return _HTTP_STATUS.get(grpc_code_of(error), 500)
