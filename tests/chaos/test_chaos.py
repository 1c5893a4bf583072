"""The short form of `make chaos`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.faults import schedule
from tests.chaos.harness import run


def test_a_seed_names_its_faults() -> None:
    assert schedule(5, 30) == schedule(5, 30)
    assert schedule(5, 30) != schedule(6, 30)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("seed", [1, 2])
def test_every_push_counts_once_through_faults(seed: int, tmp_path: Path) -> None:
    log: list[str] = []
    run(seed, 5, tmp_path, log.append)
    assert "count as they must" in log[-1]
