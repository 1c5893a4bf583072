"""Tables of a store: created once, found by name, refused with the reason; and its own life."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import embery as em

TABLE = em.Table("item", dim=4, optimizer=em.optim.Adagrad(lr=0.1), eviction=em.TTL(days=1))


def test_creating_an_equal_table_again_changes_nothing(connect: Any, snapshot: Any) -> None:
    store = connect(TABLE)
    store.push("item", [1], np.ones((1, 4), np.float32))
    before = snapshot(store, "item")
    store.create_table(TABLE)
    store.create_table(dataclasses.replace(TABLE, eviction=em.TTL(seconds=86400)))
    store.create_table(em.Table.from_dict(TABLE.to_dict()))
    assert snapshot(store, "item") == before
    assert store.tables() == {"item": TABLE}


def test_a_wire_is_no_part_of_the_definition(connect: Any) -> None:
    narrow = dataclasses.replace(TABLE, wire=em.Wire(rows="float16", grads="int8"))
    assert narrow == TABLE
    assert narrow.to_dict() == TABLE.to_dict()
    connect(TABLE).create_table(narrow)


@pytest.mark.parametrize(
    ("wire", "message"),
    [
        (em.Wire(rows="int4"), r"Wire\.rows must be one of .*'int8'.*, got 'int4'"),  # type: ignore[arg-type]
        (em.Wire(grads="fp16"), r"Wire\.grads must be one of .*, got 'fp16'"),  # type: ignore[arg-type]
        (em.Wire(residual_rows_max=-1), r"Wire\.residual_rows_max .*-1"),
        ("int8", r"Table\('item'\)\.wire must be an em\.Wire, got 'int8'"),
    ],
)
def test_a_wrong_wire_is_refused_and_named(wire: Any, message: str) -> None:
    with pytest.raises(em.InvalidArgument, match=message):
        dataclasses.replace(TABLE, wire=wire)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dim", 5),
        ("dtype", "int8"),
        ("optimizer", em.optim.Adagrad(lr=0.2)),
        ("optimizer", em.optim.SGD(lr=0.1)),
        ("initializer", em.init.Uniform(0.01, seed=1)),
        ("admission", em.MinCount(2)),
        ("eviction", None),
        ("eviction", em.TTL(days=2)),
        ("nonfinite", "raise"),
    ],
    ids=str,
)
def test_another_definition_is_refused_and_the_difference_named(
    connect: Any, field: str, value: Any
) -> None:
    store = connect(TABLE)
    other = dataclasses.replace(TABLE, **{field: value})
    with pytest.raises(em.SchemaMismatch) as caught:
        store.create_table(other)
    message = str(caught.value)
    for part in ("'item'", field, repr(TABLE.to_dict()[field]), repr(other.to_dict()[field])):
        assert part in message
    unchanged = {"dim", "dtype", "optimizer", "eviction"} - {field}
    assert not any(f"{name}:" in message for name in unchanged)
    assert store.tables() == {"item": TABLE}
    assert store.pull("item", [1]).shape == (1, 4)


def test_only_tables_can_be_created(connect: Any) -> None:
    with pytest.raises(em.InvalidArgument, match=r"expects an em\.Table, got dict"):
        connect().create_table(TABLE.to_dict())


def test_an_unknown_table_is_named_with_those_that_exist(connect: Any) -> None:
    store = connect(TABLE, em.Table("user", dim=2))
    keys, rows = np.array([1], np.uint64), np.ones((1, 4), np.float32)
    calls = [
        lambda: store.pull("items", keys),
        lambda: store.push("items", keys, rows),
        lambda: store.pull_async("items", keys),
        lambda: store.push_async("items", keys, rows),
        lambda: store.pull_batch(["item", "items"], [keys, keys], [rows, rows], mode="train"),
        lambda: store.peek_batch(["items"], [keys], [rows], [np.zeros(1, np.uint8)]),
        lambda: store.push_batch(["item", "items"], [keys, keys], [rows, rows]),
        lambda: store.deletions("items"),
        lambda: store.inspect("items", 1),
        lambda: store.evict("items"),
    ]
    for call in calls:
        with pytest.raises(em.TableNotFound) as caught:
            call()
        assert "no table 'items'" in str(caught.value)
        assert "tables: item, user" in str(caught.value)
        assert "create_table" in str(caught.value)
    assert store.stats()["tables"]["item"]["rows"] == 0
    with pytest.raises(em.TableNotFound, match="tables: none"):
        connect().pull("items", keys)


@pytest.mark.parametrize("key", [-1, 2**64, 1.0, "1", None, True], ids=repr)
def test_inspect_refuses_what_is_no_key(connect: Any, key: Any) -> None:
    with pytest.raises(em.InvalidArgument, match="inspect"):
        connect(TABLE).inspect("item", key)


def test_inspect_of_an_absent_row_is_none(connect: Any) -> None:
    store = connect(TABLE)
    assert store.inspect("item", 1) is None
    assert store.stats()["tables"]["item"]["rows"] == 0


def test_totals_add_up_over_tables(connect: Any) -> None:
    store = connect(TABLE, em.Table("user", dim=2))
    store.pull("item", [1, 2, 3])
    store.pull("user", [1])
    stats = store.stats()
    totals = stats["servers"]["embedded"]
    assert (totals["tables"], totals["rows"]) == (2, 4)
    assert totals["bytes"] == sum(table["bytes"] for table in stats["tables"].values()) > 0


def test_a_closed_store_refuses_every_call(connect: Any, tmp_path: Any) -> None:
    with connect(TABLE) as store:
        assert store.url == "embedded:"
        store.pull("item", [1])
    store.close()
    keys, rows = np.array([1], np.uint64), np.ones((1, 4), np.float32)
    calls = [
        lambda: store.create_table(TABLE),
        lambda: store.pull("item", keys),
        lambda: store.push("item", keys, rows),
        lambda: store.pull_async("item", keys),
        lambda: store.push_async("item", keys, rows),
        lambda: store.pull_batch(["item"], [keys], [rows], mode="eval"),
        lambda: store.push_batch(["item"], [keys], [rows]),
        lambda: store.deletions("item"),
        lambda: store.inspect("item", 1),
        lambda: store.evict("item"),
        store.stats,
        lambda: store.checkpoint(tmp_path),
    ]
    for call in calls:
        with pytest.raises(em.Unavailable, match="closed"):
            call()
    assert list(tmp_path.iterdir()) == []


def test_an_error_leaves_the_with_block_and_the_store_closed(connect: Any) -> None:
    store = connect(TABLE)
    with pytest.raises(KeyError, match="mine"), store:
        raise KeyError("mine")
    with pytest.raises(em.Unavailable):
        store.pull("item", [1])


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("embedded:somewhere", {}, "an embedded store has no address"),
        ("redis://host", {}, "unknown store URL 'redis://host'"),
        ("embedded:", {"threads": 0}, "threads must lie in"),
        ("embedded:", {"threads": 1.5}, "threads must be an integer"),
        ("embedded:", {"simd": "sse9"}, "'sse9'"),
    ],
    ids=str,
)
def test_a_wrong_address_or_option_is_refused(url: str, options: Any, message: str) -> None:
    with pytest.raises(em.InvalidArgument) as caught:
        em.connect(url, **options)
    assert message in str(caught.value)


def test_an_unknown_option_is_an_invalid_argument() -> None:
    with pytest.raises(em.InvalidArgument):
        em.connect("embedded:", thread=2)


def test_the_address_comes_from_the_environment_unless_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EMBERY_STORE", "nowhere:")
    with pytest.raises(em.InvalidArgument, match="'nowhere:'"):
        em.connect()
    em.connect("embedded:").close()
    monkeypatch.delenv("EMBERY_STORE")
    with em.connect() as store:
        assert store.url == "embedded:"


def loaded_modules(program: str) -> set[str]:
    """Return what a new interpreter has imported after `program`."""
    program += "; import sys; print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return set(
        subprocess.run(
            [sys.executable, "-c", program],
            env=environment, check=True, capture_output=True, text=True,
        ).stdout.split()
    )  # fmt: skip


def test_import_loads_neither_torch_nor_arrow_nor_numpy() -> None:
    assert not loaded_modules("import embery") & {"torch", "pyarrow", "numpy", "embery._native"}
    definitions = "import embery as em; em.Table('t', dim=2); em.optim.SGD(); em.init.Zeros()"
    assert not loaded_modules(definitions) & {"torch", "pyarrow"}


def test_a_store_works_without_torch() -> None:
    used = loaded_modules(
        "import embery as em; s = em.connect('embedded:'); s.create_table(em.Table('t', dim=2)); "
        "s.pull('t', [1]); s.close()"
    )
    assert "embery._native" in used
    assert "torch" not in used


@pytest.mark.parametrize("name", ["connect", "Table", "optim", "TTL", "SchemaMismatch"])
def test_public_names_load_on_first_use(name: str) -> None:
    assert name in dir(em)
    assert getattr(em, name) is getattr(em, name)
    with pytest.raises(AttributeError, match="no_such_name"):
        em.no_such_name  # noqa: B018
