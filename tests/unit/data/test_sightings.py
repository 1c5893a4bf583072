"""How often ids were seen is counted exactly, however the counts are merged."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embery.data.meaning import Sightings


@given(
    st.lists(st.lists(st.integers(0, 30), max_size=40), max_size=12),
    st.integers(1, 5),
)
def test_sightings_are_counted_across_merges(blocks: list[list[int]], times: int) -> None:
    seen = Sightings()
    for block in blocks:
        seen.add(np.array(block, np.uint64))
    flat = [i for block in blocks for i in block]
    expected = sorted(i for i in set(flat) if flat.count(i) >= times)
    assert seen.at_least(times).tolist() == expected


def test_sightings_of_many_ids_are_merged_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embery.data.meaning._MERGE_IDS_MIN", 10)
    seen = Sightings()
    for begin in range(0, 300, 3):
        seen.add(np.arange(begin, begin + 9, dtype=np.uint64))
    assert seen.at_least(3).tolist() == list(range(6, 300))
    assert len(seen._parts) == 1
