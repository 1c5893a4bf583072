"""What a coordinator that is started again finds."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from embery.coordinator.database import Database
from embery.coordinator.state import Piece, Reading
from embery.errors import InvalidArgument, Unavailable
from embery.rpc.records import Routing, no_backups


def test_everything_recorded_is_found_again(tmp_path: Path) -> None:
    path = str(tmp_path / "state")
    database = Database(path)
    fresh = database.load(0.0)
    assert (fresh.routing.version, fresh.servers, fresh.tables) == (0, {}, {})
    assert [database.add_server(i, f"127.0.0.1:{i}", "host") for i in "12"] == [0, 1]
    database.server_left(1)
    assert database.add_worker("w", 3, 4) == 1
    database.add_table("b", "{1}")
    database.add_table("a", "{2}")
    owners = np.zeros(4096, np.uint16)
    for version in (1, 2):
        routing = Routing(version, owners, no_backups(), np.full(4096, version, np.uint64))
        database.set_routing(routing)
    database.close()

    database = Database(path)
    state = database.load(5.0)
    assert (state.cluster_id, state.secret) == (fresh.cluster_id, fresh.secret)
    assert [(s.number, s.incarnation, s.state, s.heard_s) for s in state.servers.values()] == [
        (0, "1", "joining", 5.0),
        (1, "2", "left", 5.0),
    ]
    assert [(w.client, w.rank, w.world_size) for w in state.workers.values()] == [(1, 3, 4)]
    assert list(state.tables.items()) == [("b", "{1}"), ("a", "{2}")]
    assert state.routing.version == 2
    assert (state.routing.owners == owners).all()
    assert (state.routing.changed_at == 2).all()
    assert sorted(state.routing.servers) == [0]
    database.close()


def test_a_number_is_never_given_twice(tmp_path: Path) -> None:
    path = str(tmp_path / "state")
    database = Database(path)
    first = database.add_worker("a", 0, 1)
    database.forget_worker(first)
    database.close()
    database = Database(path)
    assert database.add_worker("b", 0, 1) > first
    database.close()


def test_every_change_is_on_disk_before_it_is_told(tmp_path: Path) -> None:
    database = Database(str(tmp_path / "state"))
    pragma = database._connection.execute
    assert pragma("PRAGMA journal_mode").fetchone() == ("wal",)
    assert pragma("PRAGMA synchronous").fetchone() == (2,)
    database.close()


def test_a_change_that_fails_leaves_nothing(tmp_path: Path) -> None:
    database = Database(str(tmp_path / "state"))
    database.add_table("a", "{}")
    with pytest.raises(sqlite3.IntegrityError):
        database.add_table("a", "{}")
    database.add_table("b", "{}")
    assert list(database.load(0.0).tables) == ["a", "b"]
    database.close()


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    text, other = tmp_path / "text", tmp_path / "other"
    text.write_text("no database, but long enough to be read as one " * 20)
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE t (x)")
    for path in (text, other):
        with pytest.raises(InvalidArgument, match=f"--state {path}"):
            Database(str(path))
    with pytest.raises(Unavailable, match="is the folder there"):
        Database(str(tmp_path / "none" / "state"))


def test_readings_and_their_leases_are_found_again(tmp_path: Path) -> None:
    database = Database(str(tmp_path / "state"))
    first = Reading("one", "data", 3, {0: Piece(0, finished=True)})
    database.put_reading(first, first.pieces.values())
    second = Reading("two", "data", 2)
    database.put_reading(second, [])
    held = Piece(1, done=5, token=2, holder=7, failures=1)
    ended = replace(second, stopped=True, error="damaged", pieces={1: held})
    database.put_reading(ended, [replace(held, done=4)])
    database.put_reading(ended, [held])
    database.close()
    database = Database(str(tmp_path / "state"))
    assert list(database.load_readings().items()) == [("one", first), ("two", ended)]
    database.forget_reading("one")
    assert database.load_readings() == {"two": ended}
    database.close()
