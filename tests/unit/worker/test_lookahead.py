"""Look-ahead gives the bits of the plain loop, whatever happens between the peek and the turn."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

import embery as em
from embery.worker.gradients import push_gradients

KEYS = 60
BATCHES = 40


class Labelled(NamedTuple):
    sparse: em.KeyedJaggedTensor
    label: torch.Tensor


class Loader:
    """Batches made beforehand; says how many were taken, so that a test can wait for the thread."""

    def __init__(self, batches: list[Labelled]) -> None:
        self.batches = batches
        self.changed = threading.Condition()
        self.taken = 0

    def __iter__(self) -> Iterator[Labelled]:
        for batch in self.batches:
            with self.changed:
                self.taken += 1
                self.changed.notify_all()
            yield batch

    def wait_taken(self, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.taken >= count, timeout=30)


def make_batches(seed: int, samples: int = 8) -> list[Labelled]:
    """Ids crowd at the low end, so that neighbouring batches share many rows, and some are rare."""
    random = np.random.default_rng(seed)
    batches = []
    for _ in range(BATCHES):
        lengths = torch.from_numpy(random.integers(0, 3, 2 * samples))
        ids = torch.from_numpy((KEYS * random.random(int(lengths.sum())) ** 3).astype(np.int64))
        label = torch.from_numpy(random.random(samples, np.float32))
        batches.append(Labelled(em.KeyedJaggedTensor(["a", "b"], ids, lengths=lengths), label))
    return batches


class Clock:
    """Seconds since 1970 that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Model(nn.Module):
    """Two collections that share table "t"; "u" is read by features a and b."""

    def __init__(self, store: em.Store, options: dict[str, Any]) -> None:
        super().__init__()
        adam = em.optim.Adam(lr=0.1)
        tables = [
            em.Table("t", dim=3, optimizer=adam, **options),
            em.Table("u", dim=5, optimizer=em.optim.Adagrad(lr=0.1), **options),
        ]
        self.bags = em.EmbeddingBagCollection(
            tables=tables,
            features=[em.Feature("a", table="u", pooling="mean"), em.Feature("b", table="u")],
            store=store,
        )
        self.sequence = em.EmbeddingCollection(
            tables=tables, features=[em.Feature("b", table="t")], store=store
        )

    def forward(self, batch: Labelled) -> torch.Tensor:
        rows = self.sequence(batch.sparse)["b"].to_padded_dense(2).sum((1, 2))
        return self.bags(batch.sparse).values().sum(1) + rows

    @property
    def modules_(self) -> list[Any]:
        return [self.bags, self.sequence]


Extra = Callable[[int, em.Store, Clock], None]


def train(
    loader: Loader, options: dict[str, Any], *, depth: int | None, extra: Extra | None = None
) -> tuple[list[float], dict[str, Any]]:
    """Train; return the losses and everything that the store holds at the end."""
    clock = Clock()
    with em.connect("embedded:", threads=1, clock=clock) as store:
        model = Model(store, options)
        source: Iterable[Labelled] = loader
        if depth is not None:
            source = em.prefetch(loader, model.modules_, depth=depth)
        losses = []
        for number, batch in enumerate(source):
            if depth is not None:
                # Be as far behind the thread as can be: it holds `depth` batches and one in hand.
                loader.wait_taken(min(number + depth + 2, len(loader.batches)))
            if extra is not None:
                extra(number, store, clock)
            loss = nn.functional.mse_loss(model(batch), batch.label)
            loss.backward()
            push_gradients(model.modules_)
            losses.append(loss.item())
            clock.now += 1
        rows = {
            (table, key): store.inspect(table, key) for table in ("t", "u") for key in range(KEYS)
        }
        stats = {name: dict(s) for name, s in store.stats()["tables"].items()}
        for counters in stats.values():
            counters.pop("bytes")  # Capacity, not content.
        return losses, {"rows": rows, "stats": stats}


def assert_same(plain: tuple[Any, Any], ahead: tuple[Any, Any]) -> None:
    assert ahead[0] == plain[0]
    assert ahead[1]["stats"] == plain[1]["stats"]
    for where, row in plain[1]["rows"].items():
        np.testing.assert_equal(ahead[1]["rows"][where], row, err_msg=str(where))


POLICIES = {
    "all": {},
    "min_count": {"admission": em.MinCount(3)},
    "probability": {"admission": em.Probability(0.3, seed=4)},
    "lru": {"eviction": em.LRU(max_rows=12)},
    "lfu": {"eviction": em.LFU(max_rows=12)},
    "ttl": {"eviction": em.TTL(seconds=5)},
    "min_count_lru": {"admission": em.MinCount(2), "eviction": em.LRU(max_rows=10)},
    "int8": {"dtype": "int8"},
}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("depth", [1, 6])
def test_look_ahead_leaves_the_bits_of_the_plain_loop(policy: str, depth: int) -> None:
    options = POLICIES[policy]
    plain = train(Loader(make_batches(3)), options, depth=None)
    ahead = train(Loader(make_batches(3)), options, depth=depth)
    assert_same(plain, ahead)
    if "eviction" in options:
        assert plain[1]["stats"]["u"]["evicted"] > 0
    if "admission" in options:
        assert plain[1]["stats"]["u"]["rejected"] > 0


def test_pushes_past_the_modules_are_seen() -> None:
    def push(number: int, store: em.Store, _: Clock) -> None:
        keys = np.arange(number % 7, KEYS, 3)
        store.push("u", keys, np.full((keys.size, 5), 0.5, np.float32))
        store.push_async("t", keys[:4], np.ones((4, 3), np.float32)).result()

    plain = train(Loader(make_batches(5)), {}, depth=None, extra=push)
    assert_same(plain, train(Loader(make_batches(5)), {}, depth=4, extra=push))


def test_rows_whose_time_ends_between_peek_and_turn_are_new_rows() -> None:
    def jump(number: int, _: em.Store, clock: Clock) -> None:
        # All rows are over their time, and no sweep has deleted them yet.
        clock.now += 1000 * (number in (10, 25))

    options = {"eviction": em.TTL(seconds=500)}
    plain = train(Loader(make_batches(7)), options, depth=None, extra=jump)
    assert plain[1]["stats"]["u"]["evicted"] > 0
    assert_same(plain, train(Loader(make_batches(7)), options, depth=4, extra=jump))


def test_rows_that_a_restore_replaces_are_read_again(tmp_path: Path) -> None:
    def save_and_restore(folder: Path) -> Extra:
        def extra(number: int, store: em.Store, _: Clock) -> None:
            if number == 5:
                store.checkpoint(folder)
            if number == 15:
                store.restore(folder)

        return extra

    plain = train(Loader(make_batches(6)), {}, depth=None, extra=save_and_restore(tmp_path / "a"))
    ahead = train(Loader(make_batches(6)), {}, depth=4, extra=save_and_restore(tmp_path / "b"))
    assert_same(plain, ahead)


@pytest.fixture
def bags() -> Iterator[em.EmbeddingBagCollection]:
    with em.connect("embedded:", threads=1) as store:
        yield em.EmbeddingBagCollection(
            tables=[em.Table("u", dim=2)], features=[em.Feature("a", table="u")], store=store
        )


def rows_of(emb: em.EmbeddingBagCollection) -> int:
    rows: int = emb.store.stats()["tables"]["u"]["rows"]
    return rows


def single(key: int) -> em.KeyedJaggedTensor:
    return em.KeyedJaggedTensor(["a"], torch.tensor([key]), lengths=torch.tensor([1]))


def test_a_batch_that_is_skipped_leaves_no_trace(bags: em.EmbeddingBagCollection) -> None:
    for number, batch in enumerate(em.prefetch([single(1), single(2), single(3)], bags)):
        if number != 1:
            bags(batch)
    assert rows_of(bags) == 2
    assert bags.store.inspect("u", 2) is None


def test_a_second_pass_over_a_batch_reads_rows_anew(bags: em.EmbeddingBagCollection) -> None:
    for batch in em.prefetch([single(1)], bags):
        first = bags(batch).values()
        first.sum().backward()
        bags.step()
        assert not torch.equal(bags(batch).values(), first)


def test_evaluation_reads_ahead_without_inserting(bags: em.EmbeddingBagCollection) -> None:
    bags(single(1))
    bags.eval()
    out = [bags(batch).values() for batch in em.prefetch([single(1), single(2)], bags)]
    assert out[0].abs().sum() > 0
    assert out[1].abs().sum() == 0
    assert rows_of(bags) == 1


@pytest.mark.parametrize(
    ("wrap", "unwrap"),
    [
        (lambda kjt: kjt, lambda batch: batch),
        (lambda kjt: (torch.ones(1), [kjt]), lambda batch: batch[1][0]),
        (lambda kjt: {"x": {"y": kjt}, "z": 3}, lambda batch: batch["x"]["y"]),
        (lambda kjt: Labelled(kjt, torch.ones(1)), lambda batch: batch.sparse),
        (
            lambda kjt: em.data.Batch(label=torch.ones(1), dense=None, sparse=kjt, index=0),
            lambda batch: batch.sparse,
        ),
    ],
    ids=["bare", "tuple", "dict", "named_tuple", "dataclass"],
)
def test_features_are_found_wherever_a_batch_keeps_them(
    bags: em.EmbeddingBagCollection, wrap: Callable[[Any], Any], unwrap: Callable[[Any], Any]
) -> None:
    made = wrap(single(9))
    for batch in em.prefetch([made], bags):
        assert batch is made
        rows = bags.store.pull("u", np.array([9]))
        assert torch.equal(bags(unwrap(batch)).values(), torch.from_numpy(rows))


def test_a_batch_without_the_features_is_an_error_in_its_place(
    bags: em.EmbeddingBagCollection,
) -> None:
    other = em.KeyedJaggedTensor(["b"], torch.tensor([1]), lengths=torch.tensor([1]))
    ahead = em.prefetch([single(1), other], bags)
    next(ahead)
    with pytest.raises(em.InvalidArgument, match=r"features \['a'\] in the batch .*\[\['b'\]\]"):
        next(ahead)


def test_an_exception_of_the_loader_comes_after_the_batches_before_it(
    bags: em.EmbeddingBagCollection,
) -> None:
    def loader() -> Iterator[em.KeyedJaggedTensor]:
        yield single(1)
        yield single(2)
        raise OSError("the disk is gone")

    ahead = em.prefetch(loader(), bags)
    assert [int(next(ahead).values()[0]) for _ in range(2)] == [1, 2]
    with pytest.raises(OSError, match="the disk is gone"):
        next(ahead)


def test_leaving_the_loop_ends_the_thread_and_closes_the_loader(
    bags: em.EmbeddingBagCollection,
) -> None:
    before = set(threading.enumerate())
    closed = threading.Event()

    def loader() -> Iterator[em.KeyedJaggedTensor]:
        try:
            while True:
                yield single(1)
        finally:
            closed.set()

    ahead = em.prefetch(loader(), bags, depth=2)
    next(ahead)
    assert set(threading.enumerate()) - before
    ahead.close()
    assert closed.is_set()
    assert set(threading.enumerate()) <= before


def test_at_most_depth_batches_wait(bags: em.EmbeddingBagCollection) -> None:
    loader = Loader([Labelled(single(i), torch.ones(1)) for i in range(50)])
    for number, _ in enumerate(em.prefetch(loader, bags, depth=3)):
        # Those handed over, three that wait and one in the hand of the thread.
        assert loader.taken <= number + 1 + 3 + 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"embedding": []}, "embedding must be"),
        ({"embedding": nn.Linear(1, 1)}, "embedding must be"),
        ({"depth": 0}, "depth must lie in"),
    ],
)
def test_wrong_arguments_raise_before_the_loop(
    bags: em.EmbeddingBagCollection, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(em.InvalidArgument, match=message):
        em.prefetch([], **{"embedding": bags, **arguments})
