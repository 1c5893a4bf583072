"""The gRPC column of the table of status codes."""

from __future__ import annotations

import grpc
import pytest

from embery.errors import FROM_STATUS, EmberyError, Internal
from embery.rpc.status import TO_GRPC, code_of, exception_of


def test_every_status_has_one_code_of_its_own() -> None:
    assert list(TO_GRPC) == list(FROM_STATUS)
    assert len(set(TO_GRPC.values())) == len(TO_GRPC)
    assert grpc.StatusCode.OK not in TO_GRPC.values()


@pytest.mark.parametrize("kind", FROM_STATUS.values())
def test_an_exception_survives_the_wire(kind: type[EmberyError]) -> None:
    returned = exception_of(code_of(kind("said")), "said")
    assert type(returned) is kind
    assert str(returned) == "said"


def test_a_code_that_is_never_sent_is_an_internal_error() -> None:
    error = exception_of(grpc.StatusCode.OUT_OF_RANGE, "said")
    assert type(error) is Internal
    assert "OUT_OF_RANGE" in str(error)
