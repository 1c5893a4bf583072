"""The names of the ways in which rows travel between a worker and a server."""

from __future__ import annotations

# "auto" is the best that both ends have.
TRANSPORTS = ("auto", "tcp", "grpc")
TRANSPORT_VARIABLE = "EMBERY_TRANSPORT"
