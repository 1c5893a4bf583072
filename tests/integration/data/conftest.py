"""Where the public data sets are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def data_sets() -> Path:
    """Return the folder of data sets: $EMBERY_TEST_DATA, else ../shared/data beside the project."""
    folder = Path(os.environ.get("EMBERY_TEST_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no data sets at {folder}; set EMBERY_TEST_DATA to run this test")
    return folder
