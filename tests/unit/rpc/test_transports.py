"""What the environment says of the RDMA device."""

from __future__ import annotations

import pytest

from embery.errors import InvalidArgument
from embery.rpc.transports import rdma_choice


def test_device_and_gid_are_left_open_or_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EMBERY_RDMA_DEVICE", raising=False)
    monkeypatch.delenv("EMBERY_RDMA_GID_INDEX", raising=False)
    assert rdma_choice() == ("", -1)
    monkeypatch.setenv("EMBERY_RDMA_DEVICE", "mlx5_1")
    monkeypatch.setenv("EMBERY_RDMA_GID_INDEX", "3")
    assert rdma_choice() == ("mlx5_1", 3)


@pytest.mark.parametrize("index", ["x", "-2", "256", "1.5", "\u0663"])
def test_an_index_that_no_gid_has_is_refused(monkeypatch: pytest.MonkeyPatch, index: str) -> None:
    monkeypatch.setenv("EMBERY_RDMA_GID_INDEX", index)
    with pytest.raises(InvalidArgument, match="EMBERY_RDMA_GID_INDEX: expected 0 to 255"):
        rdma_choice()
