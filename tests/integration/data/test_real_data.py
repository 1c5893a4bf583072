"""Public data sets through the readers: Frappe, Criteo in two layouts, Open Bandit."""

from __future__ import annotations

from pathlib import Path

import mmh3
import numpy as np
import pyarrow.parquet as pq
import torch

from embery.data import CriteoTSV, Parquet, Schema, Sparse, SparseList, criteo_schema

FRAPPE_FIELDS = [
    "user", "item", "daytime", "weekday", "isweekend",
    "homework", "cost", "weather", "country", "city",
]  # fmt: skip


def test_frappe_rows_are_read_whole_and_shuffled_only_in_order(data_sets: Path) -> None:
    path = data_sets / "frappe_x1" / "train.parquet"
    schema = Schema(label="label", sparse=FRAPPE_FIELDS)
    data = Parquet(path, schema=schema, batch_size=4096, shuffle=True)
    assert (data.num_rows, data.num_batches) == (202_027, 50)
    rows = np.concatenate(
        [
            np.column_stack([b.label, b.sparse.values().reshape(len(FRAPPE_FIELDS), -1).T])
            for b in data
            if b.sparse is not None
        ]
    )
    table = pq.read_table(path, columns=["label", *FRAPPE_FIELDS])
    truth = np.column_stack([c.to_numpy() for c in table.columns]).astype(np.float64)
    assert not np.array_equal(rows, truth)
    assert np.array_equal(rows[np.lexsort(rows.T)], truth[np.lexsort(truth.T)])


def test_criteo_reads_alike_from_parquet_and_from_tsv(data_sets: Path) -> None:
    folder = data_sets / "criteo_1tb_80k"
    parts = [folder / f"{name}.parquet" for name in ("train", "valid", "test")]
    columns = Parquet(parts, schema=criteo_schema(), batch_size=5000)
    lines = CriteoTSV(folder / "criteo_layout.tsv.gz", batch_size=5000)
    count = 0
    for one, other in zip(columns, lines, strict=True):
        assert one.sparse is not None
        assert other.sparse is not None
        assert one.dense is not None
        assert other.dense is not None
        assert torch.equal(one.label, other.label)
        assert torch.equal(one.dense, other.dense)
        assert torch.equal(one.sparse.values(), other.sparse.values())
        assert torch.equal(one.sparse.lengths(), other.sparse.lengths())
        count += len(one)
    assert count == 80_000


def test_open_bandit_strings_lists_and_weights_are_read(data_sets: Path) -> None:
    path = data_sets / "open_bandit_60k" / "impressions.parquet"
    schema = Schema(
        label="click",
        dense=["propensity_score"],
        sparse=[
            "item_id",
            Sparse("user_feature_0", hash_seed=11),
            SparseList("affinity_item_ids", feature="affinity", weights="affinity_scores"),
        ],
    )
    batches = list(Parquet(path, schema=schema, batch_size=7000))
    jagged = [b.sparse for b in batches if b.sparse is not None]
    table = pq.read_table(path)
    assert sum(float(b.label.sum()) for b in batches) == 287

    hashed = torch.cat([j["user_feature_0"].values() for j in jagged]).numpy().view(np.uint64)
    by_value = {
        value: mmh3.hash64(value, 11, signed=False)[0]
        for value in table["user_feature_0"].unique().to_pylist()
    }
    assert hashed.tolist() == [by_value[v] for v in table["user_feature_0"].to_pylist()]

    lists = table["affinity_item_ids"].to_pylist()
    got = [j["affinity"] for j in jagged]
    assert torch.cat([g.lengths() for g in got]).tolist() == [len(one) for one in lists]
    assert torch.cat([g.values() for g in got]).tolist() == [i for one in lists for i in one]
    scores = np.float32([s for one in table["affinity_scores"].to_pylist() for s in one])
    assert np.array_equal(torch.cat([g.weights() for g in got]).numpy(), scores)
