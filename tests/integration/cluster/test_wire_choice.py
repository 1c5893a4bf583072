"""`Table.wire` is a choice of each worker, beside the definition that all of them share."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import embery as em
from embery.data.synthetic import Synthetic

KEYS = np.arange(50, dtype=np.uint64)
ROWS = em.Table("rows", dim=4, initializer=em.init.Normal(0.1, seed=1))
HALF = em.Wire(rows="float16")


@pytest.fixture(scope="module")
def url(run_cluster: Any) -> Iterator[str]:
    with run_cluster(2) as address:
        yield address


def sums(name: str, **wire: Any) -> em.Table:
    return em.Table(
        name,
        dim=4,
        optimizer=em.optim.SGD(lr=1.0),
        initializer=em.init.Zeros(),
        wire=em.Wire(**wire),
    )


def halved(rows: Any) -> Any:
    return rows.astype(np.float16).astype(np.float32)


def test_each_handle_has_the_wire_that_it_asked_for_last(url: str) -> None:
    narrow = dataclasses.replace(ROWS, wire=HALF)
    with em.connect(url) as first, em.connect(url) as second:
        first.create_table(ROWS)
        second.create_table(narrow)
        exact = first.pull("rows", KEYS)
        assert np.array_equal(second.pull("rows", KEYS), halved(exact))
        assert not np.array_equal(exact, halved(exact))
        assert second.tables()["rows"].wire == HALF
        first.create_table(narrow)
        assert np.array_equal(first.pull("rows", KEYS), halved(exact))
        first.create_table(ROWS)
        assert np.array_equal(first.pull("rows", KEYS), exact)


def test_a_restored_table_keeps_the_wire_of_its_handle(url: str, tmp_path: Path) -> None:
    with em.connect(url) as saver:
        for table in saver.tables().values():
            saver.create_table(table)
        saver.create_table(ROWS)
        exact = saver.pull("rows", KEYS)
        manifest = saver.checkpoint(tmp_path)
    with em.connect(url) as store:
        store.create_table(dataclasses.replace(ROWS, wire=HALF))
        store.restore(manifest)
        assert np.array_equal(store.pull("rows", KEYS), halved(exact))


def test_residuals_go_with_the_rows_that_a_restore_replaces(
    run_cluster: Any, tmp_path: Path
) -> None:
    """Else the first push after it would carry what was lost before."""
    grads = np.full((50, 4), [1.0, 0.334, 0.334, 0.334], np.float32)
    with run_cluster(2) as url, em.connect(url) as store:
        store.create_table(sums("fed back", grads="int8"))
        manifest = store.checkpoint(tmp_path)
        after_first = []
        for _ in range(2):
            store.push("fed back", KEYS, grads)
            after_first.append(store.pull("fed back", KEYS).tobytes())
            store.restore(manifest)
        assert after_first[0] == after_first[1]


def test_a_handle_goes_on_with_the_residuals_of_another(run_cluster: Any, tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    grads = random.normal(size=(6, 50, 4)).astype(np.float32)

    def pushed(store: em.Store, steps: range) -> bytes:
        for step in steps:
            store.push("fed back", KEYS, grads[step])
        return store.pull("fed back", KEYS, train=False).tobytes()

    table = sums("fed back", grads="int8")
    with run_cluster(2) as url:
        with em.connect(url) as store:
            store.create_table(table)
            pushed(store, range(3))
            owed = {"residuals": store.residuals()}
            manifest = store.checkpoint(tmp_path, state=owed)
            expected = pushed(store, range(3, 6))
        found = []
        for keeps in (True, False):
            with em.connect(url) as store:
                store.create_table(table)
                saved = store.restore(manifest).state["residuals"]
                store.load_residuals([saved] if keeps else [])
                found.append(pushed(store, range(3, 6)))
        assert found[0] == expected
        assert found[1] != expected


def test_residuals_of_a_table_that_keeps_none_are_told(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with em.connect(url) as store:
        store.create_table(sums("narrow", grads="int8"))
        store.push("narrow", KEYS, np.full((50, 4), [1.0, 0.334, 0.334, 0.334], np.float32))
        owed = store.residuals()
        assert owed["narrow"]["rows"].shape == (50, 4)
        store.create_table(sums("narrow"))
        assert store.residuals() == {}
        store.load_residuals([owed])
        with em.connect("embedded:") as embedded:
            assert embedded.residuals() == {}
            embedded.load_residuals([owed])
    told = [record for record in caplog.records if "no error feedback" in record.getMessage()]
    assert len(told) == 2


def test_the_embedded_store_has_no_wire() -> None:
    with em.connect("embedded:") as store:
        store.create_table(dataclasses.replace(ROWS, wire=HALF))
        store.create_table(ROWS)
        rows = store.pull("rows", KEYS)
        assert not np.array_equal(rows, halved(rows))


class Clicks(nn.Module):
    """A weight a key, and a small network over the vectors."""

    def __init__(self, schema: em.data.Schema, store: em.Store, wire: em.Wire) -> None:
        super().__init__()
        self.embedding = em.EmbeddingBagCollection(
            tables=[
                em.Table(
                    f"{name}-{wire.grads}",
                    dim=9,
                    optimizer=em.optim.Adagrad(lr=0.1),
                    initializer=em.init.Normal(0.05, seed=seed),
                    wire=wire,
                )
                for seed, name in enumerate(schema.keys)
            ],
            features=[em.Feature(name, table=f"{name}-{wire.grads}") for name in schema.keys],
            store=store,
        )
        fields = len(schema.keys)
        self.shape = (fields, 9)
        self.top = nn.Sequential(
            nn.Linear(fields * 8 + len(schema.dense), 16), nn.ReLU(), nn.Linear(16, 1)
        )

    def forward(self, batch: em.data.Batch) -> torch.Tensor:
        rows = self.embedding(batch.sparse).values().unflatten(1, self.shape)
        deep = self.top(torch.cat([rows[:, :, 1:].flatten(1), batch.dense], 1))
        return rows[:, :, 0].sum(1) + deep[:, 0]


def test_training_in_eight_bits_reaches_nearly_the_auc_of_float32(url: str) -> None:
    reached, traffic = {}, {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for wire in (em.Wire(), em.Wire(rows="float16", grads="int8")):
        torch.manual_seed(0)
        data = Synthetic(60_000, batch_size=512)
        test = Synthetic(20_000, batch_size=4096, offset=60_000)
        with em.connect(url) as store:
            model = Clicks(data.schema, store, wire)
            optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
            loss = nn.functional.binary_cross_entropy_with_logits
            trainer = em.Trainer(model, loss, optimizer, store=store)
            trainer.fit(data)
            reached[wire.grads] = trainer.evaluate(test)["auc"]
            traffic[wire.grads] = store.stats()["worker"]
    torch.set_num_threads(threads)
    assert reached["float32"] > 0.6
    assert abs(reached["float32"] - reached["int8"]) < 0.005
    # A key of dim 9 is 8 bytes in each request, its row 36 in float32, 20 in float16, 16 in int8.
    for way, part in (("bytes_sent", 32 / 52), ("bytes_received", 20 / 36)):
        assert traffic["int8"][way] < (part + 0.1) * traffic["float32"][way]
