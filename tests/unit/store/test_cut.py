"""Checkpoints of a store that changes while it is saved, and deltas of what changed since."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embery as em
from embery import checkpoint, saving
from embery.checkpoint import writer

KEYS = np.arange(2000, dtype=np.uint64)
TABLES = [
    em.Table("plain", dim=3, optimizer=em.optim.Adam(lr=0.1)),
    em.Table("aging", dim=2, dtype="int8", eviction=em.TTL(days=0.001)),
    em.Table("recent", dim=2, admission=em.MinCount(2), eviction=em.LRU(max_rows=900)),
]


def column(*values: float) -> np.ndarray[Any, Any]:
    return np.array(values, np.float32)[:, None]


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


def store_of(clock: Clock, *tables: em.Table) -> em.Store:
    store = em.connect("embedded:", clock=clock)
    for table in tables:
        store.create_table(table)
    return store


def train(store: em.Store, clock: Clock, random: np.random.Generator, steps: int) -> None:
    for _ in range(steps):
        clock.now_s += 5
        for table in TABLES:
            keys = random.integers(0, KEYS.size, 150).astype(np.uint64)
            store.pull(table.name, keys)
            store.push(table.name, keys, random.normal(size=(150, table.dim)).astype(np.float32))


def full_files(store: em.Store, dest: Path) -> dict[str, bytes]:
    """Return the files of a full checkpoint: all there is to know of a store."""
    folder = Path(store.checkpoint(dest)).parent
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "manifest.json"}


def kind_of(path: str) -> tuple[str, int | None]:
    members = json.loads(Path(path).read_text())
    return members["kind"], members["base"]


def test_a_chain_of_deltas_restores_to_the_bits_of_a_full_checkpoint(tmp_path: Path) -> None:
    clock, random = Clock(), np.random.default_rng(0)
    store = store_of(clock, *TABLES)
    train(store, clock, random, 20)
    assert kind_of(store.checkpoint(tmp_path / "d", delta=True)) == ("full", None)
    for number in range(1, 9):
        train(store, clock, random, 3)
        path = store.checkpoint(tmp_path / "d", delta=True, state={"number": number})
        expected = ("delta", number) if number <= 7 else ("full", None)
        assert kind_of(path) == expected
        again = store_of(clock)
        assert again.restore(path).state == {"number": number}
        if number in (1, 7):
            full = full_files(store, tmp_path / f"full-{number}")
            assert full_files(again, tmp_path / f"again-{number}") == full
            # That was a checkpoint elsewhere: the next delta has to find its base here.
            store.restore(path)


def test_a_delta_grows_with_the_rows_that_changed(tmp_path: Path) -> None:
    store = em.connect("embedded:")
    store.create_table(em.Table("t", dim=64))
    keys = np.arange(20_000, dtype=np.uint64)
    store.pull("t", keys)
    store.checkpoint(tmp_path)
    sizes = []
    for count in (0, 1000, 5000):
        store.push("t", keys[:count], np.ones((count, 64), np.float32))
        found = checkpoint.open(store.checkpoint(tmp_path, delta=True))
        entry = found.tables["t"]
        assert entry.rows == count
        sizes.append(sum(group.file.bytes for group in entry.groups))
        assert sum(len(columns["key"]) for columns in found.rows("t")) == keys.size
    assert sizes[0] == 0
    assert 4.0 < sizes[2] / sizes[1] < 5.5


def test_a_row_that_expires_and_comes_again_in_one_push_is_the_new_one(tmp_path: Path) -> None:
    clock = Clock()
    table = em.Table(
        "t", dim=1, optimizer=em.optim.SGD(lr=1.0), initializer=em.init.Zeros(),
        eviction=em.TTL(days=1 / 86400 * 10),
    )  # fmt: skip
    store = store_of(clock, table)
    store.push("t", [1, 2], column(-5, -6))
    store.checkpoint(tmp_path)
    clock.now_s += 60
    store.push("t", [1], column(-1))
    path = store.checkpoint(tmp_path, delta=True)
    assert kind_of(path)[0] == "delta"
    again = store_of(clock)
    again.restore(path)
    assert again.pull("t", [1, 2], train=False).tolist() == [[1.0], [0.0]]
    assert again.stats()["tables"]["t"]["rows"] == store.stats()["tables"]["t"]["rows"]


def test_rows_that_were_put_are_in_the_next_delta(tmp_path: Path) -> None:
    store = em.connect("embedded:")
    store.create_table(em.Table("t", dim=1))
    store.put_rows("t", [1, 2], column(1, 2))
    store.checkpoint(tmp_path)
    store.put_rows("t", [2, 3], column(4, 5))
    again = em.connect("embedded:")
    again.restore(store.checkpoint(tmp_path, delta=True))
    assert again.pull("t", [1, 2, 3], train=False).tolist() == [[1.0], [4.0], [5.0]]


def test_a_table_that_its_base_has_not_is_saved_whole(tmp_path: Path) -> None:
    store = em.connect("embedded:")
    store.create_table(em.Table("old", dim=1))
    store.checkpoint(tmp_path)
    store.create_table(em.Table("new", dim=1, initializer=em.init.Constant(2.0)))
    store.pull("new", KEYS)
    again = em.connect("embedded:")
    again.restore(store.checkpoint(tmp_path, delta=True))
    assert (again.pull("new", KEYS, train=False) == 2.0).all()


def test_without_its_own_last_checkpoint_a_store_saves_all(tmp_path: Path) -> None:
    clock, random = Clock(), np.random.default_rng(0)
    first, other = store_of(clock, *TABLES), store_of(clock, *TABLES)
    train(first, clock, random, 2)
    train(other, clock, random, 2)
    first.checkpoint(tmp_path)
    assert kind_of(other.checkpoint(tmp_path, delta=True)) == ("full", None)
    assert kind_of(first.checkpoint(tmp_path, delta=True)) == ("delta", 1)
    # Another history from the same checkpoint on: it builds on what it was restored from.
    other.restore(tmp_path / "checkpoint-00000001")
    train(other, clock, random, 2)
    path = other.checkpoint(tmp_path, delta=True)
    assert kind_of(path) == ("delta", 1)
    again = store_of(clock)
    again.restore(path)
    assert full_files(again, tmp_path / "x") == full_files(other, tmp_path / "y")


def test_pushes_go_on_while_a_checkpoint_is_saved_and_are_not_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, random = Clock(), np.random.default_rng(0)
    store = store_of(clock, *TABLES)
    train(store, clock, random, 10)
    expected = full_files(store, tmp_path / "before")
    begun, pushed = threading.Event(), threading.Event()
    write_group = writer._Run._group

    def waiting(self: Any, *arguments: Any) -> Any:
        begun.set()
        assert pushed.wait(60)
        return write_group(self, *arguments)

    monkeypatch.setattr(writer._Run, "_group", waiting)
    vector = np.arange(3)
    saved = store.checkpoint_async(tmp_path / "during", state={"vector": vector})
    vector += 1
    assert begun.wait(60)
    train(store, clock, random, 10)
    assert not saved.done()
    pushed.set()
    folder = Path(saved.result(60)).parent
    names = {path.name for path in folder.iterdir()} - {"manifest.json", "state.arrow"}
    assert {name: (folder / name).read_bytes() for name in names} == expected
    assert checkpoint.open(folder).state["vector"].tolist() == [0, 1, 2]


def test_a_checkpoint_that_would_keep_too_much_aside_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = em.connect("embedded:")
    store.create_table(em.Table("t", dim=8))
    store.push("t", KEYS, np.ones((KEYS.size, 8), np.float32))
    first = store.checkpoint(tmp_path)
    monkeypatch.setattr(saving, "CUT_BYTES_MIN", 1000)
    monkeypatch.setattr(saving, "CUT_BYTES_SHARE", 1 << 40)
    with store._cut() as cut:  # type: ignore[attr-defined]
        store.push("t", KEYS, np.ones((KEYS.size, 8), np.float32))
        with pytest.raises(em.ResourceExhausted, match="training goes on"):
            checkpoint.write(tmp_path, cut.sources)
    assert checkpoint.newest(tmp_path) == first
    assert store.inspect("t", 5)["updates"] == 2  # type: ignore[index]
    store.checkpoint(tmp_path)


def test_two_checkpoints_of_a_store_are_saved_one_after_the_other(tmp_path: Path) -> None:
    store = em.connect("embedded:")
    store.create_table(em.Table("t", dim=8))
    store.pull("t", KEYS)
    saved = [store.checkpoint_async(tmp_path) for _ in range(3)]
    paths = [future.result(60) for future in saved]
    assert len(set(paths)) == 3
    store.checkpoint_async(tmp_path)
    store.close()
    assert checkpoint.open(tmp_path).number == 4
