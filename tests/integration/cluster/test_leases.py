"""Workers that share out a data set by leases; each handle of the cluster is one of them."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import embery as em
from embery.errors import EmberyError, InvalidArgument
from embery.place import Place
from embery.rpc.client import CoordinatorClient
from embery.rpc.membership import Membership
from embery.rpc.readings import LeaseReport
from embery.store import BatchIdentity
from embery.worker.leasing import LeasedBatches

ROWS, GROUP, BATCH = 1000, 100, 16
SCHEMA = em.data.Schema(label="label", sparse=["item"])


def write(path: Path, rows: int = ROWS) -> Path:
    columns = {"label": np.zeros(rows, np.float32), "item": np.arange(rows)}
    pq.write_table(pa.table(columns), path, row_group_size=GROUP)
    return path


@pytest.fixture
def data(tmp_path: Path) -> em.data.Parquet:
    path = write(tmp_path / "data.parquet")
    return em.data.Parquet(path, schema=SCHEMA, batch_size=BATCH, shuffle=True, seed=3)


@pytest.fixture(scope="module")
def url(run_cluster: Any) -> Iterator[str]:
    with run_cluster(1) as address:
        yield address


@pytest.fixture
def connect(url: str) -> Iterator[Callable[[], em.Store]]:
    with ExitStack() as stores:
        yield lambda: stores.enter_context(em.connect(url))


def items(batch: em.data.Batch) -> list[int]:
    assert batch.sparse is not None
    return batch.sparse.values().tolist()


def read_all(batches: LeasedBatches) -> list[int]:
    read: list[int] = []
    with batches:
        for batch in batches:
            read += items(batch)
            batches.commit()
    return read


def test_every_row_is_read_by_one_worker(
    data: em.data.Parquet, connect: Callable[[], em.Store]
) -> None:
    shares: list[list[int]] = [[], []]
    both_read = threading.Barrier(2, timeout=20)

    def work(number: int) -> None:
        batches = LeasedBatches(data, connect(), reading="all", epoch=1)
        with batches:
            for batch in batches:
                if not shares[number]:
                    both_read.wait()
                shares[number] += items(batch)
                batches.commit()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert all(shares)
    assert sorted(shares[0] + shares[1]) == list(range(ROWS))


def test_batches_of_a_piece_are_the_same_whoever_reads_it(data: em.data.Parquet) -> None:
    whole = [items(batch) for batch in data.piece(4, epoch=2)]
    assert [items(batch) for batch in data.piece(4, epoch=2, start=3)] == whole[3:]
    assert [len(batch) for batch in whole] == [16] * 6 + [4]
    assert whole != [items(batch) for batch in data.piece(4, epoch=3)]
    pieces = [data.piece(number, epoch=2) for number in range(data.piece_count)]
    read = [item for piece in pieces for batch in piece for item in items(batch)]
    assert sorted(read) == list(range(ROWS))


def test_the_next_piece_is_read_before_this_one_ends(
    data: em.data.Parquet, connect: Callable[[], em.Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: dict[int, threading.Event] = {n: threading.Event() for n in range(data.piece_count)}
    piece = data.piece

    def noted(number: int, **where: int) -> Iterator[em.data.Batch]:
        def read() -> Iterator[em.data.Batch]:
            begun[number].set()
            yield from piece(number, **where)

        return read()

    monkeypatch.setattr(data, "piece", noted)
    with LeasedBatches(data, connect(), reading="ahead") as batches:
        next(iter(batches))
        assert begun[1].wait(20)
        assert not begun[2].is_set()


def test_who_has_a_piece_next_goes_on_after_the_last_commit(
    data: em.data.Parquet, connect: Callable[[], em.Store]
) -> None:
    committed: list[int] = []
    with LeasedBatches(data, connect(), reading="given back") as batches:
        for number, batch in enumerate(batches):
            if number == 9:
                break  # Taken, and not committed.
            committed += items(batch)
            batches.commit()
    rest = read_all(LeasedBatches(data, connect(), reading="given back"))
    assert sorted(committed + rest) == list(range(ROWS))


def test_a_worker_that_is_gone_loses_its_leases(
    data: em.data.Parquet, url: str, connect: Callable[[], em.Store]
) -> None:
    store = em.connect(url)
    batches = LeasedBatches(data, store, reading="gone")
    first = next(iter(batches))
    batches.commit()
    with batches._changed:
        reports = [held.report("held") for held in batches._held.values()]
    batches._membership.hold_leases("gone", want=2, reports=reports)
    store.close()
    rest = read_all(LeasedBatches(data, connect(), reading="gone"))
    assert sorted(items(first) + rest) == list(range(ROWS))


@pytest.fixture
def two_stores(run_cluster: Any) -> Iterator[tuple[em.Store, em.Store]]:
    with run_cluster(2) as address, em.connect(address) as one, em.connect(address) as other:
        yield one, other


def test_a_batch_that_is_pushed_again_by_who_has_its_lease_next_counts_once(
    data: em.data.Parquet, two_stores: tuple[em.Store, em.Store]
) -> None:
    stores = two_stores
    table = em.Table("reads", dim=1, optimizer=em.optim.SGD(lr=1.0), initializer=em.init.Zeros())
    for store in stores:
        store.create_table(table)

    def push(store: em.Store, batch: em.data.Batch, identity: BatchIdentity) -> None:
        keys = np.array(items(batch), np.uint64)
        store.push_batch(["reads"], [keys], [-np.ones((len(keys), 1), np.float32)], batch=identity)

    # Four batches are pushed; of two others know nothing.
    first = LeasedBatches(data, stores[0], reading="torn")
    with first:
        for number, batch in enumerate(first):
            push(stores[0], batch, identity := first.oldest)
            if number < 2:
                first.commit()
            if number == 3:
                last = batch
                break
    with LeasedBatches(data, stores[1], reading="torn") as second:
        for number, batch in enumerate(second):
            push(stores[1], batch, second.oldest)
            second.commit()
            if number == 0:
                with pytest.raises(InvalidArgument, match="this worker must end"):
                    push(stores[0], last, replace(identity, number=4))
    counts = stores[1].pull("reads", np.arange(ROWS), train=False)
    assert (counts == 1).all()
    assert stores[1].stats()["tables"]["reads"]["step"] == 7 * 10

    def push_until_servers_have_heard() -> None:
        while True:
            push(stores[1], last, replace(identity, token=9))

    with pytest.raises(InvalidArgument, match="the lease is over"):
        push_until_servers_have_heard()


def test_a_frozen_worker_is_fenced_off(start_coordinator: Any) -> None:
    _, url = start_coordinator("--heartbeat", "0.2", "--lease", "0.5")
    client = CoordinatorClient(url)
    # It sends no heartbeats, and the lease of one that is not heard of runs out.
    client.register_worker(incarnation="frozen")
    client.open_reading("r", plan="data", pieces=1)
    (old,) = client.hold_leases("frozen", "r", want=1).leases
    other = Membership(client, Place())
    other.start()
    (new,) = other.hold_leases("r", want=1, wait_s=20).leases
    assert (new.piece, new.token) == (old.piece, old.token + 1)
    late = LeaseReport(old.piece, old.token, 99, "finished")
    assert client.hold_leases("frozen", "r", want=0, reports=[late]).leases == []
    assert [p.done for p in client.open_reading("r", plan="data", pieces=1)] == [0]
    done = LeaseReport(new.piece, new.token, 7, "finished")
    assert other.hold_leases("r", want=1, reports=[done]).state == "finished"
    other.close()
    client.close()


def test_a_call_that_is_tried_again_has_one_effect(start_coordinator: Any) -> None:
    _, url = start_coordinator()
    client = CoordinatorClient(url)
    client.register_worker(incarnation="w")
    assert client.open_reading("r", plan="data", pieces=5) == []
    first = client.hold_leases("w", "r", want=2)
    assert client.hold_leases("w", "r", want=2) == first
    failed = LeaseReport(first.leases[0].piece, first.leases[0].token, 0, "failed", "why")
    again = [client.hold_leases("w", "r", want=1, reports=[failed]) for _ in range(9)]
    assert again == [again[0]] * 9
    client.close()


def test_leases_outlive_the_coordinator(
    data: em.data.Parquet, start: Any, start_coordinator: Any, tmp_path: Path
) -> None:
    state = ("--state", str(tmp_path / "cluster.sqlite"))
    coordinator, url = start_coordinator(*state)
    start("ps", "--coordinator", url).line()
    with em.connect(url) as store, LeasedBatches(data, store, reading="r") as batches:
        read = []
        for number, batch in enumerate(batches):
            read += items(batch)
            batches.commit()
            if number == 3:
                coordinator.finish(signal.SIGKILL)
            # Two leases were held: what is left of them is read without a coordinator.
            if number == 10:
                start_coordinator(*state, "--port", url.rpartition(":")[2])
        assert sorted(read) == list(range(ROWS))


def test_a_piece_that_cannot_be_read_fails_the_reading(
    tmp_path: Path, connect: Callable[[], em.Store]
) -> None:
    path = write(tmp_path / "data.parquet")
    data = em.data.Parquet(path, schema=SCHEMA, batch_size=BATCH)
    offset = pq.ParquetFile(path).metadata.row_group(5).column(1).data_page_offset
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 64)
    batches = LeasedBatches(data, connect(), reading="damaged")
    with pytest.raises(EmberyError, match=r"piece 5 of Parquet.*failed 3 times.*row group 5"):
        read_all(batches)


def test_a_reading_that_was_saved_is_resumed(
    data: em.data.Parquet, connect: Callable[[], em.Store]
) -> None:
    read: list[int] = []
    with LeasedBatches(data, connect(), reading="saved") as batches:
        for number, batch in enumerate(batches):
            read += items(batch)
            batches.commit()
            if number == 20:
                break
    state = batches.state()
    assert [(p.piece, p.done, p.finished) for p in state if p.done] == [
        (0, 7, True), (1, 7, True), (2, 7, False),
    ]  # fmt: skip
    read += read_all(LeasedBatches(data, connect(), reading="resumed", begun=state))
    assert sorted(read) == list(range(ROWS))


def test_a_worker_ends_the_reading_of_all(
    data: em.data.Parquet, connect: Callable[[], em.Store]
) -> None:
    with LeasedBatches(data, connect(), reading="stopped") as mine:
        iterator = iter(mine)
        next(iterator)
        with LeasedBatches(data, connect(), reading="stopped") as theirs:
            theirs.stop()
            assert read_all(theirs) == []
        mine.commit()
        mine._tell(wait_s=0.0)
        assert mine.stopped
        assert next(iterator, None) is None


def test_what_cannot_be_shared_out_is_refused(
    data: em.data.Parquet, connect: Callable[[], em.Store]
) -> None:
    with pytest.raises(InvalidArgument, match="got list"):
        LeasedBatches([], connect(), reading="r")
    with em.connect("embedded:") as store, pytest.raises(InvalidArgument, match="'embedded:'"):
        LeasedBatches(data, store, reading="r")
    LeasedBatches(data, connect(), reading="one plan")
    other = em.data.Synthetic(100, batch_size=4)
    with pytest.raises(InvalidArgument, match=r"different data: one reads Parquet \(10 pieces"):
        LeasedBatches(other, connect(), reading="one plan")
    batches = LeasedBatches(data, connect(), reading="too many commits")
    with pytest.raises(InvalidArgument, match="committed already"):
        batches.commit()
    client = CoordinatorClient(connect().url)
    client.register_worker(incarnation="w")
    with pytest.raises(InvalidArgument, match="no reading 'nothing'"):
        client.hold_leases("w", "nothing", want=1)
    client.close()
