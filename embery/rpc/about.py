"""What every role says of itself: its version and its clock."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from embery import __version__
from embery.rpc.channel import Channel
from embery.rpc.credentials import Credentials
from embery.rpc.v1 import about_pb2 as a
from embery.rpc.v1.about_pb2_grpc import AboutStub


class AboutService:
    """See proto/embery/v1/about.proto."""

    def Describe(self, request: a.DescribeRequest, context: Any) -> a.DescribeReply:
        """Say what this process is."""
        return a.DescribeReply(version=__version__, time_s=time.time())


@dataclass(frozen=True, slots=True)
class Description:
    """A role as it described itself.

    Attributes:
        version: of its software.
        clock_ahead_s: of this machine's clock; known to within `error_s`, half of the round trip.
    """

    version: str
    clock_ahead_s: float
    error_s: float


def describe(
    address: str, credentials: Credentials | None, timeout_s: float, *, role: str
) -> Description:
    """Ask the role at "HOST:PORT" what it is; `role` names it in errors.

    Raises:
        EmberyError: it cannot be reached, does not answer, or refuses.
    """
    with closing(Channel(address, credentials, role=role)) as channel:
        stub = AboutStub(channel.grpc)  # type: ignore[no-untyped-call]
        # The first call also connects, which would count as a part of the way.
        channel.call(stub.Describe, a.DescribeRequest(), timeout_s, what="describe")
        begin_s = time.time()
        reply = channel.call(stub.Describe, a.DescribeRequest(), timeout_s, what="describe")
        end_s = time.time()
    return Description(
        version=reply.version,
        clock_ahead_s=reply.time_s - (begin_s + end_s) / 2,
        error_s=(end_s - begin_s) / 2,
    )
