"""`embery inspect` of a running cluster."""

from __future__ import annotations

import json
import re
from contextlib import closing
from typing import Any

import numpy as np
import pytest

import embery as em
from embery.cli.live_table import LiveTable
from embery.cli.main import main
from embery.cli.membership import wait_until
from embery.routing import slots_of
from embery.rpc.client import ClusterStatus, CoordinatorClient
from embery.rpc.credentials import Credentials

ITEM = em.Table("item", dim=2, optimizer=em.optim.Adagrad(lr=0.5))
WAIT_S = 60.0


@pytest.fixture(scope="module")
def url(run_cluster: Any) -> Any:
    with run_cluster(2) as url, em.connect(url) as store:
        store.create_table(ITEM)
        keys = np.arange(100, dtype=np.uint64)
        for _ in range(3):
            store.push("item", keys, np.ones((100, 2), np.float32))
        yield url


def shown(capsys: Any, *argv: str) -> Any:
    assert main(["inspect", *argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_row_is_that_of_the_store_with_the_server_that_holds_it(capsys: Any, url: str) -> None:
    with em.connect(url) as store:
        for key in (0, 1, 2, 99):
            row = shown(capsys, url, "item", hex(key))
            # Two servers have half of the slots each.
            assert row.pop("server") == int(slots_of("item", np.array([key], np.uint64))[0]) // 2048
            assert row.pop("address").startswith("127.0.0.1:")
            assert row == store.inspect("item", key)
    assert main(["inspect", url, "item", "1"]) == 0
    assert re.search(r"^updates +3$", capsys.readouterr().out, re.MULTILINE)


def test_statistics_are_sums_over_the_servers(capsys: Any, url: str) -> None:
    found = shown(capsys, url, "item")
    assert found["definition"]["dim"] == 2
    assert found["counters"]["rows"] == sum(s["rows"] for s in found["servers"]) == 100
    assert found["counters"]["updates"] == 300
    assert found["counters"]["step"] == 3
    assert [s["server"] for s in found["servers"]] == [0, 1]
    assert main(["inspect", url, "item"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^updates +300$", out, re.MULTILINE)
    assert re.search(r"^server 1 +\d+ rows, ", out, re.MULTILINE)


def test_what_is_not_there_fails_in_a_line(capsys: Any, url: str) -> None:
    assert main(["inspect", url, "item", "1000"]) == 1
    assert f"{url}: table 'item' has no row of key 1000\n" in capsys.readouterr().err
    assert main(["inspect", url, "nope"]) == 1
    assert "no table 'nope'; the cluster has ['item']" in capsys.readouterr().err


def test_a_cluster_that_waits_for_its_servers_says_so(capsys: Any, start_coordinator: Any) -> None:
    _, url = start_coordinator("--expect-ps", "2")
    assert main(["inspect", url, "item"]) == 1
    assert "waiting for 0 of 2 servers" in capsys.readouterr().err


def _uneven(status: ClusterStatus) -> int:
    return abs(int((status.routing.owners == 1).sum()) - 2048)


def test_a_row_that_moved_while_it_was_looked_for_is_found(
    start: Any, start_coordinator: Any
) -> None:
    _, url = start_coordinator()
    start("ps", "--coordinator", url).line()
    keys = np.arange(50, dtype=np.uint64)
    with em.connect(url) as store:
        store.create_table(ITEM)
    with em.connect(url) as store, LiveTable.of(url, "item", Credentials()) as live:
        store.push("item", keys, np.ones((50, 2), np.float32))
        start("ps", "--coordinator", url).line()
        with closing(CoordinatorClient(url)) as coordinator:
            assert wait_until(coordinator, _uneven, WAIT_S) == 0
        rows = [live.row(key) for key in range(50)]
        assert {row["server"] for row in rows} == {0, 1}
        assert live.row(1000) is None
