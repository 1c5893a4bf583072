"""Ragged batches: `JaggedTensor`, `KeyedJaggedTensor` and `KeyedTensor`.

The layout and the names are those of torchrec (Ivchenko et al., "TorchRec: a PyTorch domain library
for recommendation systems", RecSys 2022), so that code moves over unchanged; nothing of torchrec is
needed. Shape letters: N values in all, K keys, B samples, D columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embery.errors import InvalidArgument

_KEY_DTYPES = (torch.int64, torch.int32, torch.uint64)
_COUNT_DTYPES = (torch.int64, torch.int32)


def _require_vector(what: str, tensor: object, dtypes: tuple[torch.dtype, ...] | None) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise InvalidArgument(f"{what} must be a torch tensor, got {type(tensor).__name__}")
    if tensor.dim() != 1:
        raise InvalidArgument(f"{what} must have 1 dimension, got shape {tuple(tensor.shape)}")
    if dtypes is not None and tensor.dtype not in dtypes:
        names = " or ".join(str(d) for d in dtypes)
        raise InvalidArgument(f"{what} must be {names}, got {tensor.dtype}")
    return tensor


def _offsets_from(lengths: Tensor) -> Tensor:
    offsets = lengths.new_zeros(lengths.numel() + 1)
    torch.cumsum(lengths, 0, out=offsets[1:])
    return offsets


def _check_counts(what: str, n_values: int, lengths: Tensor | None, offsets: Tensor | None) -> None:
    """Raise unless exactly one of lengths and offsets is given and it divides `n_values`."""
    if (lengths is None) == (offsets is None):
        raise InvalidArgument(f"{what}: give lengths or offsets, one of the two")
    if lengths is not None:
        counts = _as_counts(f"{what}.lengths", lengths)
        if counts.size and counts.min() < 0:
            at = int((counts < 0).argmax())
            raise InvalidArgument(f"{what}.lengths[{at}] is negative: {counts[at]}")
        total = counts.sum(dtype=np.int64)
        if total != n_values:
            raise InvalidArgument(
                f"{what}: the lengths add up to {total}, but there are {n_values} values"
            )
        return
    bounds = _as_counts(f"{what}.offsets", offsets)
    if not bounds.size or bounds[0] != 0 or bounds[-1] != n_values:
        ends = f"{bounds[0]} and {bounds[-1]}" if bounds.size else "nothing"
        raise InvalidArgument(
            f"{what}.offsets must begin with 0 and end with {n_values}, the number of values; "
            f"got {ends}"
        )
    if (bounds[1:] < bounds[:-1]).any():
        at = int((bounds[1:] < bounds[:-1]).argmax())
        raise InvalidArgument(
            f"{what}.offsets must not fall, got {bounds[at]} then {bounds[at + 1]} at {at}"
        )


def _as_counts(what: str, counts: object) -> NDArray[Any]:
    # NumPy checks in this thread; torch would call up its whole pool for a few thousand numbers.
    return _require_vector(what, counts, _COUNT_DTYPES).cpu().numpy()


def _check_weights(what: str, n_values: int, weights: Tensor | None) -> None:
    if weights is None:
        return
    _require_vector(f"{what}.weights", weights, (torch.float32,))
    if weights.numel() != n_values:
        raise InvalidArgument(
            f"{what}: {weights.numel()} weights for {n_values} values; give one weight a value"
        )


class _Ragged:
    """What both jagged classes share: values, weights, and lengths or offsets, each on demand."""

    _values: Tensor
    _lengths: Tensor | None
    _offsets: Tensor | None
    _weights: Tensor | None

    def values(self) -> Tensor:
        """Return the values of all samples, one after the other."""
        return self._values

    def lengths(self) -> Tensor:
        """Return how many values each sample has."""
        if self._lengths is None:
            assert self._offsets is not None
            self._lengths = self._offsets.diff()
        return self._lengths

    def offsets(self) -> Tensor:
        """Return where each sample's values begin, and the end: one entry more than lengths."""
        if self._offsets is None:
            assert self._lengths is not None
            self._offsets = _offsets_from(self._lengths)
        return self._offsets

    def weights(self) -> Tensor:
        """Return the weight of each value, float32 (N,).

        Raises:
            InvalidArgument: there are none; `weights_or_none` asks without raising.
        """
        if self._weights is None:
            raise InvalidArgument(f"this {type(self).__name__} has no weights")
        return self._weights

    def weights_or_none(self) -> Tensor | None:
        """Return the weight of each value, float32 (N,), or None."""
        return self._weights

    def device(self) -> torch.device:
        """Return the device that holds the values."""
        return self._values.device


class JaggedTensor(_Ragged):
    """Samples of different lengths, their values one after the other.

    Args:
        values: any dtype, shape (N,) or (N, D).
        lengths: int32 or int64, (B,), not negative, adding up to N; or
        offsets: int32 or int64, (B + 1,), from 0 to N, not falling.
        weights: float32 (N,), or None.

    Raises:
        InvalidArgument: naming the argument that is wrong.
    """

    def __init__(
        self,
        values: Tensor,
        *,
        lengths: Tensor | None = None,
        offsets: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> None:
        if not isinstance(values, Tensor) or values.dim() not in (1, 2):
            got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise InvalidArgument(
                f"JaggedTensor.values must be a tensor of 1 or 2 dimensions, got {got}"
            )
        _check_counts("JaggedTensor", values.shape[0], lengths, offsets)
        _check_weights("JaggedTensor", values.shape[0], weights)
        self._set(values, lengths, offsets, weights)

    def _set(
        self,
        values: Tensor,
        lengths: Tensor | None,
        offsets: Tensor | None,
        weights: Tensor | None,
    ) -> JaggedTensor:
        self._values, self._weights = values, weights
        self._lengths, self._offsets = lengths, offsets
        return self

    @classmethod
    def unchecked(
        cls, values: Tensor, *, lengths: Tensor, weights: Tensor | None = None
    ) -> JaggedTensor:
        """Return a tensor whose parts are known to fit; as the constructor, without its checks."""
        return cls.__new__(cls)._set(values, lengths, None, weights)

    def to_dense(self) -> list[Tensor]:
        """Return one tensor a sample: (length,) or (length, D)."""
        return list(torch.split(self._values, self.lengths().tolist()))

    def to_padded_dense(
        self, desired_length: int | None = None, padding_value: float = 0.0
    ) -> Tensor:
        """Return all samples in one tensor, cut or padded at their end.

        Args:
            desired_length: values a sample; the longest sample's length if None.
            padding_value: what follows the values of a short sample.

        Returns:
            shape (B, desired_length) or (B, desired_length, D).
        """
        lengths = self.lengths()
        longest = int(lengths.max()) if lengths.numel() else 0
        width = longest if desired_length is None else desired_length
        column = torch.arange(width, device=lengths.device)
        kept = column[None, :] < lengths[:, None]
        where = self.offsets()[:-1, None] + column[None, :]
        out = self._values.new_full(
            (lengths.numel(), width, *self._values.shape[1:]), padding_value
        )
        # index_put of the kept places only, so that an empty sample never reads a value.
        return out.index_put((kept,), self._values[where[kept]])

    def to(self, device: torch.device | str, non_blocking: bool = False) -> JaggedTensor:
        """Return the same samples on `device`."""
        weights = self._weights
        return JaggedTensor.unchecked(
            self._values.to(device, non_blocking=non_blocking),
            lengths=self.lengths().to(device, non_blocking=non_blocking),
            weights=None if weights is None else weights.to(device, non_blocking=non_blocking),
        )

    def __repr__(self) -> str:
        return (
            f"JaggedTensor(values={tuple(self._values.shape)}, lengths={self.lengths().tolist()})"
        )


class KeyedJaggedTensor(_Ragged):
    """The sparse features of a batch: K keys (names of features) by B samples, each a list of ids.

    Values lie feature by feature, and within a feature sample by sample; `lengths[k * B + b]` says
    how many ids feature `keys[k]` has in sample b.

    Args:
        keys: names of the features, distinct.
        values: ids, int64 or int32 or uint64, (N,). An int64 id is taken as its 64 bits.
        lengths: int32 or int64, (K * B,), not negative, adding up to N; or
        offsets: int32 or int64, (K * B + 1,), from 0 to N, not falling.
        weights: float32 (N,), or None.

    Raises:
        InvalidArgument: naming the argument that is wrong.
    """

    def __init__(
        self,
        keys: Sequence[str],
        values: Tensor,
        *,
        lengths: Tensor | None = None,
        offsets: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> None:
        what = "KeyedJaggedTensor"
        names = list(keys)
        if len(set(names)) != len(names) or not all(isinstance(k, str) for k in names):
            raise InvalidArgument(f"{what}.keys must be distinct strings, got {names}")
        _require_vector(f"{what}.values", values, _KEY_DTYPES)
        _check_counts(what, values.numel(), lengths, offsets)
        _check_weights(what, values.numel(), weights)
        count = lengths.numel() if lengths is not None else offsets.numel() - 1  # type: ignore[union-attr]
        if (count % len(names) != 0) if names else (count != 0):
            raise InvalidArgument(
                f"{what}: {count} lengths do not divide among {len(names)} keys; expected one a "
                "key and sample, feature by feature"
            )
        self._set(names, values, lengths, offsets, weights)

    def _set(
        self,
        keys: list[str],
        values: Tensor,
        lengths: Tensor | None,
        offsets: Tensor | None,
        weights: Tensor | None,
    ) -> KeyedJaggedTensor:
        self._keys = keys
        self._values, self._weights = values, weights
        self._lengths, self._offsets = lengths, offsets
        self._length_per_key: list[int] | None = None
        return self

    @staticmethod
    def from_lengths_sync(
        keys: Sequence[str], values: Tensor, lengths: Tensor, weights: Tensor | None = None
    ) -> KeyedJaggedTensor:
        """Return the batch with these lengths; see the class."""
        return KeyedJaggedTensor(keys, values, lengths=lengths, weights=weights)

    @staticmethod
    def from_offsets_sync(
        keys: Sequence[str], values: Tensor, offsets: Tensor, weights: Tensor | None = None
    ) -> KeyedJaggedTensor:
        """Return the batch with these offsets; see the class."""
        return KeyedJaggedTensor(keys, values, offsets=offsets, weights=weights)

    @staticmethod
    def of(batch: Any) -> KeyedJaggedTensor:
        """Return `batch` as a `KeyedJaggedTensor`: itself, or torchrec's own, by its methods.

        Raises:
            InvalidArgument: it has no keys(), values(), lengths() and weights_or_none(), or its
                features have different numbers of samples.
        """
        if isinstance(batch, KeyedJaggedTensor):
            return batch
        if not is_keyed_jagged(batch):
            raise InvalidArgument(
                f"expected a KeyedJaggedTensor (Embery's or torchrec's), got {type(batch).__name__}"
            )
        if getattr(batch, "variable_stride_per_key", bool)():
            raise InvalidArgument(
                "this KeyedJaggedTensor has another number of samples for each key; "
                "give every feature the whole batch"
            )
        return KeyedJaggedTensor(
            batch.keys(), batch.values(), lengths=batch.lengths(), weights=batch.weights_or_none()
        )

    def keys(self) -> list[str]:
        """Return the names of the features."""
        return self._keys

    def stride(self) -> int:
        """Return B, the number of samples (0 when there are no keys)."""
        if not self._keys:
            return 0
        if self._lengths is not None:
            return self._lengths.numel() // len(self._keys)
        assert self._offsets is not None
        return (self._offsets.numel() - 1) // len(self._keys)

    def length_per_key(self) -> list[int]:
        """Return how many values each feature has in the whole batch."""
        if self._length_per_key is None:
            per_key = self.lengths().view(len(self._keys), self.stride()) if self._keys else None
            self._length_per_key = [] if per_key is None else per_key.sum(1).tolist()
        return self._length_per_key

    def offset_per_key(self) -> list[int]:
        """Return where the values of each feature begin, and the end: K + 1 numbers."""
        return list(accumulate(self.length_per_key(), initial=0))

    def __getitem__(self, key: str) -> JaggedTensor:
        """Return the samples of one feature.

        Raises:
            InvalidArgument: there is no such feature.
        """
        if key not in self._keys:
            raise InvalidArgument(f"no feature {key!r} in this batch; it has {self._keys}")
        at, samples = self._keys.index(key), self.stride()
        begin, end = self.offset_per_key()[at : at + 2]
        return JaggedTensor.unchecked(
            self._values[begin:end],
            lengths=self.lengths()[at * samples : (at + 1) * samples],
            weights=None if self._weights is None else self._weights[begin:end],
        )

    def to_dict(self) -> dict[str, JaggedTensor]:
        """Return the samples of every feature by its name."""
        return {key: self[key] for key in self._keys}

    def to(self, device: torch.device | str, non_blocking: bool = False) -> KeyedJaggedTensor:
        """Return the same batch on `device`; itself if it is there already."""
        if self._values.device == torch.device(device):
            return self
        weights = self._weights
        moved = KeyedJaggedTensor.__new__(KeyedJaggedTensor)
        return moved._set(
            self._keys,
            self._values.to(device, non_blocking=non_blocking),
            self.lengths().to(device, non_blocking=non_blocking),
            None,
            None if weights is None else weights.to(device, non_blocking=non_blocking),
        )

    def __repr__(self) -> str:
        return (
            f"KeyedJaggedTensor(keys={self._keys}, stride={self.stride()}, "
            f"values={self._values.numel()}, weighted={self._weights is not None})"
        )


def is_keyed_jagged(batch: object) -> bool:
    """Say whether `batch` has the methods of a KeyedJaggedTensor that Embery reads."""
    return all(
        callable(getattr(batch, name, None))
        for name in ("keys", "values", "lengths", "weights_or_none")
    )


class KeyedTensor:
    """Named blocks of columns of one tensor: what an embedding module returns.

    Args:
        keys: names of the blocks, distinct.
        length_per_key: columns of each block.
        values: shape (B, sum of length_per_key).

    Raises:
        InvalidArgument: the columns do not add up to those of `values`.
    """

    def __init__(self, keys: Sequence[str], length_per_key: Sequence[int], values: Tensor) -> None:
        self._keys, self._length_per_key = list(keys), list(length_per_key)
        if len(self._keys) != len(self._length_per_key):
            raise InvalidArgument(
                f"KeyedTensor: {len(self._keys)} keys but {len(self._length_per_key)} lengths"
            )
        if values.dim() != 2 or values.shape[1] != sum(self._length_per_key):
            raise InvalidArgument(
                f"KeyedTensor.values must have shape (B, {sum(self._length_per_key)}), "
                f"got {tuple(values.shape)}"
            )
        self._values = values
        self._parts: dict[str, Tensor] | None = None

    def keys(self) -> list[str]:
        """Return the names of the blocks."""
        return self._keys

    def values(self) -> Tensor:
        """Return all blocks side by side, (B, sum of length_per_key)."""
        return self._values

    def length_per_key(self) -> list[int]:
        """Return the number of columns of each block."""
        return self._length_per_key

    def offset_per_key(self) -> list[int]:
        """Return where each block begins, and the end."""
        return list(accumulate(self._length_per_key, initial=0))

    def to_dict(self) -> dict[str, Tensor]:
        """Return every block, (B, its columns), by its name."""
        if self._parts is None:
            # One split for all blocks: its gradient is one concatenation, where a slice a block
            # would each fill and add a whole (B, D) tensor.
            parts = torch.split(self._values, self._length_per_key, 1) if self._keys else ()
            self._parts = dict(zip(self._keys, parts, strict=True))
        return dict(self._parts)

    def __getitem__(self, key: str) -> Tensor:
        """Return one block, (B, its columns).

        Raises:
            InvalidArgument: there is no such block.
        """
        if key not in self._keys:
            raise InvalidArgument(f"no key {key!r} in this KeyedTensor; it has {self._keys}")
        return self.to_dict()[key]

    def __repr__(self) -> str:
        blocks = dict(zip(self._keys, self._length_per_key, strict=True))
        return f"KeyedTensor({self._values.shape[0]} x {blocks})"
