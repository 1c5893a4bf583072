"""The jagged tensors keep torchrec's layout and refuse what is torn."""

from __future__ import annotations

import pytest
import torch

import embery as em

# Features a, b over 3 samples: a = [1, 2], [], [3]; b = [], [4], [5, 6].
VALUES = torch.tensor([1, 2, 3, 4, 5, 6])
LENGTHS = torch.tensor([2, 0, 1, 0, 1, 2])


def test_lengths_and_offsets_describe_the_same_batch() -> None:
    one = em.KeyedJaggedTensor.from_lengths_sync(["a", "b"], VALUES, LENGTHS)
    two = em.KeyedJaggedTensor.from_offsets_sync(["a", "b"], VALUES, one.offsets())
    assert one.offsets().tolist() == [0, 2, 2, 3, 3, 4, 6]
    assert two.lengths().tolist() == LENGTHS.tolist()
    assert one.stride() == two.stride() == 3
    assert one.length_per_key() == two.length_per_key() == [3, 3]
    assert one.offset_per_key() == [0, 3, 6]


def test_one_feature_is_its_part_of_values_and_weights() -> None:
    weights = torch.arange(6.0)
    kjt = em.KeyedJaggedTensor(["a", "b"], VALUES, lengths=LENGTHS, weights=weights)
    part = kjt["b"]
    assert part.values().tolist() == [4, 5, 6]
    assert part.lengths().tolist() == [0, 1, 2]
    assert part.weights().tolist() == [3.0, 4.0, 5.0]
    assert list(kjt.to_dict()) == ["a", "b"]
    assert [t.tolist() for t in kjt["a"].to_dense()] == [[1, 2], [], [3]]


def test_padding_cuts_long_samples_and_fills_short_ones() -> None:
    part = em.KeyedJaggedTensor(["a", "b"], VALUES, lengths=LENGTHS)["a"]
    assert part.to_padded_dense().tolist() == [[1, 2], [0, 0], [3, 0]]
    assert part.to_padded_dense(1, -1).tolist() == [[1], [-1], [3]]
    rows = em.JaggedTensor(torch.arange(6.0).view(3, 2), lengths=torch.tensor([1, 2]))
    assert rows.to_padded_dense(2).tolist() == [[[0, 1], [0, 0]], [[2, 3], [4, 5]]]


def test_padding_passes_the_gradient_of_kept_values_only() -> None:
    values = torch.ones(3, requires_grad=True)
    em.JaggedTensor(values, lengths=torch.tensor([2, 1])).to_padded_dense(1).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [1.0, 0.0, 1.0]


def test_an_empty_batch_and_no_keys_are_batches() -> None:
    none = torch.tensor([], dtype=torch.int64)
    empty = em.KeyedJaggedTensor(["a"], none, lengths=none)
    assert empty.stride() == 0
    assert empty["a"].to_padded_dense().shape == (0, 0)
    keyless = em.KeyedJaggedTensor([], none, lengths=none)
    assert keyless.stride() == 0
    assert keyless.to_dict() == {}
    assert keyless.length_per_key() == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lengths": torch.tensor([2, -1, 2, 0, 1, 2])}, r"lengths\[1\] is negative: -1"),
        ({"lengths": torch.tensor([2, 0, 1, 0, 1, 1])}, "add up to 5, but there are 6 values"),
        ({"lengths": LENGTHS.float()}, r"lengths must be torch.int64 or torch.int32"),
        ({"lengths": LENGTHS.view(2, 3)}, r"lengths must have 1 dimension, got shape \(2, 3\)"),
        ({"lengths": torch.tensor([2, 0, 4])}, "3 lengths do not divide among 2 keys"),
        ({"lengths": None}, "give lengths or offsets"),
        ({"offsets": torch.tensor([0, 6])}, "give lengths or offsets"),
        ({"lengths": None, "offsets": torch.tensor([0, 2, 1, 6, 6, 6, 6])}, "must not fall"),
        ({"lengths": None, "offsets": torch.tensor([1, 6])}, "begin with 0 and end with 6"),
        ({"values": VALUES.float()}, "values must be torch.int64 or torch.int32"),
        ({"values": VALUES.view(2, 3)}, "values must have 1 dimension"),
        ({"values": [1, 2, 3, 4, 5, 6]}, "values must be a torch tensor, got list"),
        ({"keys": ["a", "a"]}, "keys must be distinct"),
        ({"weights": torch.ones(5)}, "5 weights for 6 values"),
        ({"weights": torch.ones(6).double()}, "weights must be torch.float32"),
    ],
)
def test_a_torn_batch_is_refused_by_name(change: dict[str, object], message: str) -> None:
    parts: dict[str, object] = {"keys": ["a", "b"], "values": VALUES, "lengths": LENGTHS, **change}
    with pytest.raises(em.InvalidArgument, match=message):
        em.KeyedJaggedTensor(parts.pop("keys"), parts.pop("values"), **parts)  # type: ignore[arg-type]


def test_a_foreign_keyed_jagged_tensor_is_read_by_its_methods() -> None:
    class Foreign:
        def keys(self) -> list[str]:
            return ["a", "b"]

        def values(self) -> torch.Tensor:
            return VALUES

        def lengths(self) -> torch.Tensor:
            return LENGTHS.int()

        def weights_or_none(self) -> None:
            return None

    kjt = em.KeyedJaggedTensor.of(Foreign())
    assert kjt["a"].values().tolist() == [1, 2, 3]
    assert em.KeyedJaggedTensor.of(kjt) is kjt
    with pytest.raises(em.InvalidArgument, match=r"expected a KeyedJaggedTensor .* got dict"):
        em.KeyedJaggedTensor.of({"a": VALUES})


def test_a_missing_feature_or_weight_is_named() -> None:
    kjt = em.KeyedJaggedTensor(["a", "b"], VALUES, lengths=LENGTHS)
    with pytest.raises(em.InvalidArgument, match=r"no feature 'c' .*\['a', 'b'\]"):
        kjt["c"]
    with pytest.raises(em.InvalidArgument, match="has no weights"):
        kjt.weights()
    assert kjt.weights_or_none() is None


def test_keyed_tensor_hands_out_blocks_with_one_gradient() -> None:
    values = torch.arange(10.0).view(2, 5).requires_grad_()
    out = em.KeyedTensor(["x", "y"], [2, 3], values)
    assert out["x"].tolist() == [[0, 1], [5, 6]]
    assert out.to_dict()["y"].shape == (2, 3)
    assert out.offset_per_key() == [0, 2, 5]
    (out["x"].sum() + 2 * out["y"].sum()).backward()
    assert values.grad is not None
    assert values.grad[0].tolist() == [1, 1, 2, 2, 2]
    with pytest.raises(em.InvalidArgument, match="no key 'z'"):
        out["z"]
    with pytest.raises(em.InvalidArgument, match=r"shape \(B, 4\), got \(2, 5\)"):
        em.KeyedTensor(["x", "y"], [2, 2], values)
