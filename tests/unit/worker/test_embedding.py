"""Embedding modules: what they read, what they push, and what they refuse."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

import embery as em
from embery.worker.gradients import push_gradients

DIM = 4


@pytest.fixture
def store() -> Iterator[em.Store]:
    with em.connect("embedded:", threads=2) as opened:
        yield opened


def table(name: str = "item", dim: int = DIM, **options: object) -> em.Table:
    """SGD with rate 1: a push subtracts the gradient itself."""
    defaults = {"optimizer": em.optim.SGD(lr=1.0), "initializer": em.init.Uniform(1.0, seed=5)}
    return em.Table(name, dim=dim, **{**defaults, **options})  # type: ignore[arg-type]


def bags(store: em.Store, *features: em.Feature, **options: object) -> em.EmbeddingBagCollection:
    return em.EmbeddingBagCollection(
        tables=[table()],
        features=list(features),
        store=store,
        **options,  # type: ignore[arg-type]
    )


def kjt(
    parts: dict[str, list[list[int]]], weights: list[float] | None = None
) -> em.KeyedJaggedTensor:
    """A batch from {feature: [ids of sample 0, ids of sample 1, ...]}."""
    samples = [sample for feature in parts.values() for sample in feature]
    return em.KeyedJaggedTensor.from_lengths_sync(
        list(parts),
        torch.tensor([i for sample in samples for i in sample], dtype=torch.int64),
        torch.tensor([len(sample) for sample in samples], dtype=torch.int64),
        None if weights is None else torch.tensor(weights),
    )


def rows_of(store: em.Store, keys: list[int], name: str = "item") -> torch.Tensor:
    return torch.from_numpy(store.pull(name, np.array(keys, np.int64), train=False))


@pytest.mark.parametrize("pooling", ["sum", "mean", "sqrtn"])
@pytest.mark.parametrize("weighted", [False, True])
def test_output_and_gradients_are_those_of_the_definition(
    store: em.Store, pooling: str, weighted: bool
) -> None:
    emb = bags(store, em.Feature("a", table="item", pooling=pooling))  # type: ignore[arg-type]
    ids = [[1, 2, 1], [], [3], [2, 2]]
    batch = kjt({"a": ids}, [0.5, -1.0, 2.0, 3.0, 1.5, 0.25] if weighted else None)
    if weighted:
        batch.weights().requires_grad_()
    out = emb(batch)["a"]

    first = rows_of(store, [1, 2, 3]).double()
    reference = first.clone().requires_grad_()
    weights = torch.ones(6) if not weighted else batch.weights().detach()
    weights = weights.double().requires_grad_()
    expected, at = [], 0
    for sample in ids:
        n = len(sample)
        parts = [weights[at + i] * reference[key - 1] for i, key in enumerate(sample)]
        total = sum(parts) if parts else torch.zeros(DIM, dtype=torch.float64)
        scale = {"sum": 1.0, "mean": max(n, 1), "sqrtn": max(n, 1) ** 0.5}[pooling]
        expected.append(total / scale)
        at += n
    expected_out = torch.stack(expected)
    torch.testing.assert_close(out.double(), expected_out, rtol=1e-6, atol=1e-6)

    grad = torch.arange(16.0).view(4, DIM)
    out.backward(grad)
    emb.step()
    expected_out.backward(grad.double())
    assert reference.grad is not None
    pushed = first - rows_of(store, [1, 2, 3]).double()
    torch.testing.assert_close(pushed, reference.grad, rtol=1e-5, atol=1e-5)
    if weighted:
        assert batch.weights().grad is not None
        assert weights.grad is not None
        torch.testing.assert_close(
            batch.weights().grad.double(), weights.grad, rtol=1e-5, atol=1e-5
        )


def test_features_of_one_table_share_rows_and_take_one_step(store: em.Store) -> None:
    emb = bags(store, em.Feature("a", table="item"), em.Feature("b", table="item"))
    out = emb(kjt({"b": [[7], [8]], "unused": [[1], [2]], "a": [[7, 8], [7]]}))
    assert out.keys() == ["a", "b"]
    assert out.length_per_key() == [DIM, DIM]
    first = rows_of(store, [7, 8])
    torch.testing.assert_close(out["b"], first)
    out.values().sum().backward()
    emb.step()
    torch.testing.assert_close(
        first - rows_of(store, [7, 8]), torch.tensor([[3.0], [2.0]]).expand(2, 4)
    )
    row = store.inspect("item", 7)
    assert row is not None
    assert row["updates"] == 1
    assert store.inspect("item", 1) is None


def test_several_forward_passes_make_one_step(store: em.Store) -> None:
    emb = bags(store, em.Feature("a", table="item"))
    one, two = emb(kjt({"a": [[1], [2]]})), emb(kjt({"a": [[2], [3]]}))
    first = rows_of(store, [1, 2, 3])
    two.values().sum().mul(10).backward()
    one.values().sum().backward()
    emb.step()
    pushed = first - rows_of(store, [1, 2, 3])
    torch.testing.assert_close(pushed, torch.tensor([[1.0], [11.0], [10.0]]).expand(3, 4))
    assert store.stats()["tables"]["item"]["step"] == 1


def test_forward_passes_are_summed_in_their_order_not_that_of_backward(store: em.Store) -> None:
    # In float32, (1 + tiny) + tiny is 1 and (tiny + tiny) + 1 is not.
    tiny = 2.0**-24
    results = []
    for order in ((0, 1, 2), (2, 1, 0)):
        name = f"t{order[0]}"
        emb = em.EmbeddingBagCollection(
            tables=[table(name, initializer=em.init.Zeros())],
            features=[em.Feature("a", table=name)],
            store=store,
        )
        losses = [emb(kjt({"a": [[1]]})).values().sum() * s for s in (1.0, tiny, tiny)]
        for i in order:
            losses[i].backward()
        emb.step()
        results.append(rows_of(store, [1], name))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], torch.full((1, DIM), -1.0))


def test_two_collections_push_a_shared_table_in_one_step(store: em.Store) -> None:
    emb = bags(store, em.Feature("a", table="item"))
    seq = em.EmbeddingCollection(
        tables=[table()], features=[em.Feature("s", table="item")], store=store
    )
    batch = kjt({"a": [[1], [2]], "s": [[2, 5], []]})
    loss = emb(batch).values().sum() + seq(batch)["s"].values().sum()
    first = rows_of(store, [1, 2, 5])
    loss.backward()
    push_gradients([emb, seq])
    pushed = first - rows_of(store, [1, 2, 5])
    torch.testing.assert_close(pushed, torch.tensor([[1.0], [2.0], [1.0]]).expand(3, 4))
    assert store.stats()["tables"]["item"]["step"] == 1


def test_sequences_keep_one_row_a_value(store: em.Store) -> None:
    seq = em.EmbeddingCollection(
        tables=[table(), table("wide", dim=6)],
        features=[em.Feature("s", table="item"), em.Feature("w", table="wide")],
        store=store,
    )
    batch = kjt({"s": [[4, 5, 4], []], "w": [[1], [1, 2]]}, [1, 2, 3, 4, 5, 6.0])
    out = seq(batch)
    assert list(out) == ["s", "w"]
    first = rows_of(store, [4, 5])
    torch.testing.assert_close(out["s"].values(), first[[0, 1, 0]])
    assert out["s"].lengths().tolist() == [3, 0]
    assert out["w"].values().shape == (3, 6)
    assert out["w"].weights().tolist() == [4.0, 5.0, 6.0]
    (out["s"].values() * torch.tensor([[1.0], [10.0], [100.0]])).sum().backward()
    seq.step()
    torch.testing.assert_close(
        first - rows_of(store, [4, 5]), torch.tensor([[101.0], [10.0]]).expand(2, 4)
    )


def test_eval_mode_inserts_nothing_and_reads_zeros(store: em.Store) -> None:
    emb = bags(store, em.Feature("a", table="item"))
    emb.eval()
    out = emb(kjt({"a": [[1], [2]]})).values()
    assert torch.equal(out, torch.zeros(2, DIM))
    assert not out.requires_grad
    assert store.stats()["tables"]["item"]["rows"] == 0
    emb.train()
    assert emb(kjt({"a": [[1], [2]]})).values().abs().sum() > 0
    assert store.stats()["tables"]["item"]["rows"] == 2


def test_no_gradient_is_recorded_without_grad_mode(store: em.Store) -> None:
    emb = bags(store, em.Feature("a", table="item"))
    with torch.no_grad():
        assert not emb(kjt({"a": [[1]]})).values().requires_grad
    with torch.inference_mode():
        assert emb(kjt({"a": [[1]]})).values().shape == (1, DIM)
    with pytest.raises(em.InvalidArgument, match="no forward pass in training mode"):
        emb.step()


def test_step_before_backward_says_what_to_do(store: em.Store) -> None:
    emb = bags(store, em.Feature("a", table="item"))
    loss = emb(kjt({"a": [[1]]})).values().sum()
    with pytest.raises(em.InvalidArgument, match=r"call loss.backward\(\) before step"):
        emb.step()
    loss.backward()
    emb.step()
    assert store.stats()["tables"]["item"]["step"] == 1


def test_zero_grad_forgets_what_was_not_pushed(store: em.Store) -> None:
    emb = bags(store, em.Feature("a", table="item"))
    emb(kjt({"a": [[1]]})).values().sum().backward()
    emb.zero_grad()
    with pytest.raises(em.InvalidArgument, match="no forward pass"):
        emb.step()


def test_batches_without_values_or_samples_pass_through(store: em.Store) -> None:
    emb = bags(store, em.Feature("a", table="item"), em.Feature("b", table="item"))
    out = emb(kjt({"a": [], "b": []}))
    assert out.values().shape == (0, 2 * DIM)
    out.values().sum().backward()
    emb.step()
    bare = emb(kjt({"a": [[], []], "b": [[], []]}))
    assert torch.equal(bare.values(), torch.zeros(2, 2 * DIM))
    bare.values().sum().backward()
    emb.step()
    seq = em.EmbeddingCollection(
        tables=[table()], features=[em.Feature("a", table="item")], store=store
    )
    assert seq(kjt({"a": []}))["a"].values().shape == (0, DIM)
    assert store.stats()["tables"]["item"]["rows"] == 0


@pytest.mark.parametrize("layout", ["sum", "slice", "transposed", "one_sample"])
def test_gradients_are_the_same_however_autograd_lays_them_out(
    store: em.Store, layout: str
) -> None:
    emb = bags(store, em.Feature("a", table="item"), em.Feature("b", table="item"))
    batch = kjt(
        {"a": [[1]], "b": [[2]]} if layout == "one_sample" else {"a": [[1], [2]], "b": [[2], [3]]}
    )
    pooled = emb(batch).values()
    scale = torch.arange(pooled.numel(), dtype=torch.float32).view_as(pooled)
    first = rows_of(store, [1, 2, 3])
    if layout == "sum":  # A gradient expanded from one number.
        scale = torch.ones_like(pooled)
        pooled.sum().backward()
    elif layout == "transposed":
        pooled.t().backward(scale.t().contiguous())
    else:  # A slice of the gradient of a wider matrix.
        wide = torch.cat([torch.zeros(len(pooled), 3), pooled], 1)
        wide.backward(torch.cat([torch.ones(len(pooled), 3), scale], 1))
    emb.step()
    grad = torch.zeros(4, DIM)
    for feature, keys in enumerate(batch.values().view(2, -1).tolist()):
        for sample, key in enumerate(keys):
            grad[key] += scale[sample, feature * DIM : (feature + 1) * DIM]
    torch.testing.assert_close(first - rows_of(store, [1, 2, 3]), grad[1:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("key", [0, -1, 2**63 - 1, -(2**63)])
def test_every_key_is_legal(store: em.Store, key: int) -> None:
    emb = bags(store, em.Feature("a", table="item"))
    emb(kjt({"a": [[key], [key]]})).values().sum().backward()
    emb.step()
    assert store.inspect("item", key % 2**64) is not None


def test_ids_may_be_int32_uint64_or_strided(store: em.Store) -> None:
    emb = bags(store, em.Feature("a", table="item"))
    expected = emb(kjt({"a": [[1], [2]]})).values()
    lengths = torch.ones(2, dtype=torch.int32)
    for ids in (
        torch.tensor([1, 2], dtype=torch.int32),
        torch.tensor([1, 2], dtype=torch.uint64),
        torch.tensor([1, 9, 2, 9])[::2],
    ):
        assert torch.equal(
            emb(em.KeyedJaggedTensor(["a"], ids, lengths=lengths)).values(), expected
        )


def test_torchrecs_own_batch_is_accepted(store: em.Store) -> None:
    ours = kjt({"a": [[1, 2], [3]]})

    class Foreign:
        keys, values, lengths = ours.keys, ours.values, ours.lengths
        weights_or_none = ours.weights_or_none

    emb = bags(store, em.Feature("a", table="item"))
    assert torch.equal(emb(Foreign()).values(), emb(ours).values())


def test_bits_do_not_depend_on_threads(store: em.Store) -> None:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(0, 4, (3 * 500,), generator=generator)
    ids = torch.randint(0, 100, (int(lengths.sum()),), generator=generator)
    batch = em.KeyedJaggedTensor(["a", "b", "c"], ids, lengths=lengths)
    results = []
    for threads in (1, 3):
        name = f"t{threads}"
        emb = em.EmbeddingBagCollection(
            tables=[table(name), table("u" + name, dim=16)],
            features=[
                em.Feature("a", table=name, pooling="mean"),
                em.Feature("b", table="u" + name, pooling="sqrtn"),
                em.Feature("c", table=name),
            ],
            store=store,
            threads=threads,
        )
        out = emb(batch).values()
        out.square().sum().backward()
        emb.step()
        results.append((out.detach(), rows_of(store, list(range(100)), name)))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (lambda: kjt({"b": [[1]]}), r"no feature 'a'.*\['b'\]"),
        (
            lambda: kjt({"a": [[1, 2]]}, [1.0, float("nan")]),
            "weight 1 of feature 'a' is not",
        ),
        (lambda: {"a": [1]}, "expected a KeyedJaggedTensor"),
        (lambda: kjt({}), "no feature 'a'"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(store: em.Store, batch: object, message: str) -> None:
    emb = bags(store, em.Feature("a", table="item"))
    with pytest.raises(em.InvalidArgument, match=message):
        emb(batch())  # type: ignore[operator]
    assert store.stats()["tables"]["item"]["rows"] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"features": [em.Feature("a", table="user")]},
            r"table is 'user', but .*\['item'\]",
        ),
        ({"features": [em.Feature("a", table="item")] * 2}, "distinct names"),
        ({"features": []}, "at least one"),
        ({"tables": [table(), table()]}, "tables must have distinct names"),
        ({"threads": 0}, "EmbeddingBagCollection: threads must lie in"),
        ({"device": "meta"}, "device must be 'cpu' or 'cuda'"),
    ],
)
def test_a_definition_that_does_not_fit_is_refused(
    store: em.Store, change: dict[str, object], message: str
) -> None:
    arguments = {"tables": [table()], "features": [em.Feature("a", table="item")], **change}
    with pytest.raises(em.InvalidArgument, match=message):
        em.EmbeddingBagCollection(store=store, **arguments)  # type: ignore[arg-type]
    assert store.tables() == {}


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_cuda_device_that_is_not_there_is_refused(store: em.Store) -> None:
    with pytest.raises(em.InvalidArgument, match="finds no CUDA device here; use device='cpu'"):
        bags(store, em.Feature("a", table="item"), device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_module_gives_the_bits_of_the_cpu(store: em.Store) -> None:
    results = []
    for device in ("cpu", "cuda"):
        name = f"t-{device}"
        emb = em.EmbeddingBagCollection(
            tables=[table(name)],
            features=[em.Feature("a", table=name, pooling="mean")],
            store=store,
            device=device,
        )
        out = emb(kjt({"a": [[1, 2], [2], []]})).values()
        assert out.device.type == device
        out.square().sum().backward()
        emb.step()
        results.append((out.detach().cpu(), rows_of(store, [1, 2], name)))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "", "table": "t"}, "Feature.name must be a non-empty string"),
        ({"name": "a", "table": 3}, "Feature.table must be a non-empty string, got 3"),
        ({"name": "a", "table": "t", "pooling": "max"}, r"Feature\('a'\).pooling must be one of"),
    ],
)
def test_a_feature_says_which_field_is_wrong(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(em.InvalidArgument, match=message):
        em.Feature(**arguments)  # type: ignore[arg-type]
