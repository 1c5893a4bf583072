"""Random calls against a model of the store that is a dictionary: all that is told, at every step.

The model knows admission, eviction, time-to-live, steps, LSNs and counters; SGD with integer
gradients makes its arithmetic exact.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import embery as em
from embery import _native

MASK = 2**64 - 1
KEYS = 60


def mixed(salt: int, key: int) -> int:
    """MurmurHash3's finaliser of (key xor salt): slot and order of a key."""
    x = key ^ salt
    x = (x ^ x >> 33) * 0xFF51AFD7ED558CCD & MASK
    x = (x ^ x >> 33) * 0xC4CEB9FE1A85EC53 & MASK
    return x ^ x >> 33


@dataclass
class Row:
    value: float
    step: int
    time_s: int
    lsn: int
    updates: int = 0


@dataclass
class Model:
    """What a store of one table of dim 1, SGD(lr=1) and first values 0 must do."""

    table: em.Table
    salt: int = 0
    rows: dict[int, Row] = field(default_factory=dict)
    seen: dict[int, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))
    lsns: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    raised: set[int] = field(default_factory=set)
    tombstones: list[tuple[int, int]] = field(default_factory=list)
    step: int = 0
    swept_s: int = 0
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def lsn(self, key: int) -> int:
        """Raise the LSN of the key's slot, once an operation."""
        slot = mixed(self.salt, key) >> 52
        if slot not in self.raised:
            self.raised.add(slot)
            self.lsns[slot] += 1
        return self.lsns[slot]

    def delete(self, key: int) -> None:
        del self.rows[key]
        self.tombstones.append((mixed(self.salt, key), self.lsn(key)))
        self.counts["deleted"] += 1
        self.counts["evicted"] += 1

    def expired(self, row: Row, now_s: int) -> bool:
        ttl = self.table.eviction
        return isinstance(ttl, em.TTL) and now_s - row.time_s >= ttl.ttl_s

    def find(self, key: int, kind: int, counted: set[int], step: int, now_s: int) -> Row | None:
        """Return the row of a key; admit it if it is its time."""
        if key in self.rows and not self.expired(self.rows[key], now_s):
            return self.rows[key]
        if key in self.rows:
            self.delete(key)
        admission = self.table.admission
        if isinstance(admission, em.MinCount):
            if key not in counted:
                counted.add(key)
                self.seen[key][kind] += 1
            if self.seen[key][kind] < admission.count:
                return None
            del self.seen[key]
        self.counts["admitted"] += 1
        self.rows[key] = Row(0.0, step, now_s, self.lsn(key))
        return self.rows[key]

    def pull(self, keys: list[int], now_s: int) -> list[float]:
        self.raised = set()
        counted: set[int] = set()
        values = []
        missing = False
        for key in keys:
            missing |= key not in self.rows or self.expired(self.rows[key], now_s)
            row = self.find(key, 0, counted, self.step + 1, now_s)
            values.append(row.value if row else 0.0)
        if missing:
            self.evict(self.step + 1, now_s)
        return values

    def read(self, keys: list[int], now_s: int) -> list[float]:
        found = (self.rows.get(key) for key in keys)
        return [row.value if row and not self.expired(row, now_s) else 0.0 for row in found]

    def push(self, keys: list[int], grads: list[float], now_s: int) -> None:
        self.raised = set()
        self.step += 1
        sums: dict[int, float] = {}
        for key, grad in zip(keys, grads, strict=True):
            sums[key] = sums.get(key, 0.0) + grad
        for key, grad in sums.items():
            if np.isnan(grad):
                self.counts["nonfinite"] += 1
                continue
            row = self.find(key, 1, set(), self.step, now_s)
            if row is None:
                self.counts["rejected"] += 1
                continue
            row.value -= grad
            row.step, row.time_s, row.lsn = self.step, now_s, self.lsn(key)
            row.updates += 1
            self.counts["updates"] += 1
        self.evict(self.step, now_s)

    def evict(self, step: int, now_s: int) -> None:
        """Sweep what has expired 32 times within a time-to-live; keep max_rows always."""
        eviction = self.table.eviction
        if isinstance(eviction, em.TTL) and now_s - self.swept_s >= eviction.ttl_s // 32:
            self.swept_s = now_s
            self.raised = set()
            for key in [key for key, row in self.rows.items() if self.expired(row, now_s)]:
                self.delete(key)
        if not isinstance(eviction, em.LRU) or len(self.rows) <= eviction.max_rows:
            return

        def rank(key: int) -> tuple[Any, ...]:
            row = self.rows[key]
            if isinstance(eviction, em.LFU):
                return row.step >= step, row.updates, row.step, mixed(self.salt, key)
            return row.step, mixed(self.salt, key)

        self.raised = set()
        goes = sorted(self.rows, key=rank)[: len(self.rows) - eviction.max_rows]
        for key in goes:
            self.delete(key)


def assert_equal(store: Any, model: Model) -> None:
    stats = store.stats()["tables"]["t"]
    told = {name: stats[name] for name in ("admitted", "rejected", "evicted", "deleted", "updates")}
    assert told == {name: model.counts[name] for name in told}
    assert (stats["rows"], stats["step"]) == (len(model.rows), model.step)
    assert stats["nonfinite"] == model.counts["nonfinite"]
    assert stats["candidates"] == len(model.seen)
    for key in {*range(KEYS), *model.rows}:
        row, shown = model.rows.get(key), store.inspect("t", key)
        assert (row is None) == (shown is None), key
        if row is not None:
            assert shown["values"] == [row.value]
            assert (shown["updates"], shown["last_step"]) == (row.updates, row.step)
            assert (shown["last_time_s"], shown["lsn"]) == (row.time_s, row.lsn)
    state = store._native.export_state(store._ids["t"])
    lsns = {slot: int(lsn) for slot, lsn in enumerate(state["slot_lsns"]) if lsn}
    assert lsns == dict(model.lsns)
    tombstones = [(int(key), int(lsn)) for key, lsn in state["tombstones"].reshape(-1, 2)]
    assert sorted(tombstones) == sorted(model.tombstones)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("admission", [None, em.MinCount(3)], ids=str)
@pytest.mark.parametrize("eviction", [None, em.LRU(20), em.LFU(20), em.TTL(seconds=2**31)], ids=str)
def test_store_tells_what_the_model_tells(
    connect: Any, clock: Any, admission: Any, eviction: Any, seed: int
) -> None:
    table = em.Table(
        "t",
        dim=1,
        optimizer=em.optim.SGD(lr=1.0),
        initializer=em.init.Zeros(),
        admission=admission,
        eviction=eviction,
    )
    store = connect(table, clock=clock)
    model = Model(table, _native.table_salt("t"))
    rng = np.random.default_rng(seed)
    for call in range(80):
        # Some rows expire between two sweeps, which are 10 seconds apart, and are used before.
        clock.now_s += int(rng.choice([0, 1, 7, 150]))
        keys = (rng.zipf(1.2, rng.integers(0, 30)) % KEYS).astype(np.uint64)
        listed = keys.tolist()
        if rng.random() < 0.4:
            # One key is new, for a pull that inserts nothing need not sweep.
            keys = np.append(keys, np.uint64(KEYS + call))
            listed = keys.tolist()
            values = store.pull("t", keys)[:, 0].tolist()
            assert values == model.pull(listed, int(clock.now_s))
        elif rng.random() < 0.2:
            values = store.pull("t", keys, train=False)[:, 0].tolist()
            assert values == model.read(listed, int(clock.now_s))
        else:
            grads = rng.integers(-9, 10, len(keys)).astype(np.float32)
            grads[rng.random(len(keys)) < 0.05] = np.nan
            store.push("t", keys, grads[:, None])
            model.push(listed, grads.tolist(), int(clock.now_s))
        assert_equal(store, model)
