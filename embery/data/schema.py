"""What the columns of a data set mean: label, dense numbers, sparse keys.

A schema is checked against a file before anything is read from it, so that a missing column or a
wrong type is one clear error that names the file and the column.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Literal

import pyarrow as pa

from embery.data.keys import SEED_MAX, is_key_type
from embery.errors import InvalidArgument
from embery.validation import require_finite, require_int


@dataclass(frozen=True, slots=True)
class Label:
    """A column to be predicted: integers, booleans or floating-point numbers, never null or NaN."""

    name: str

    def validate(self) -> None:
        """Raise `InvalidArgument` if the name is empty."""
        _require_name("Label.name", self.name)

    def accepts(self, kind: pa.DataType) -> bool:
        """Say whether a column of the Arrow type `kind` can be this column."""
        return _is_number(kind)


@dataclass(frozen=True, slots=True)
class Dense:
    """A numeric feature, read as float32.

    Args:
        name: the column: integers, booleans or finite floating-point numbers.
        transform: "log1p" reads x as log(1 + max(x, 0)), for counts; None reads x itself.
        default: what a null reads as; it is not transformed.
    """

    name: str
    _: KW_ONLY
    transform: Literal["log1p"] | None = None
    default: float = 0.0

    def validate(self) -> None:
        """Raise `InvalidArgument` if a field is out of its range."""
        _require_name("Dense.name", self.name)
        require_finite(f"Dense({self.name!r}).default", self.default)
        if self.transform not in (None, "log1p"):
            raise InvalidArgument(
                f"Dense({self.name!r}).transform must be None or 'log1p', got {self.transform!r}"
            )

    def accepts(self, kind: pa.DataType) -> bool:
        """Say whether a column of the Arrow type `kind` can be this column."""
        return _is_number(kind)


@dataclass(frozen=True, slots=True)
class Sparse:
    """A categorical feature with one key a row; a null is a missing value, an empty bag.

    Args:
        name: the column: integers (taken as keys), strings or binary values (hashed), or a
            dictionary of them.
        feature: name of the feature in the batch; the column's name if None.
        hash_seed: seed of the string hash, 0 <= hash_seed < 2**32. Two features that share a table
            share its keys if their seeds are equal.
    """

    name: str
    _: KW_ONLY
    feature: str | None = None
    hash_seed: int = 0

    @property
    def key(self) -> str:
        """Return the name of the feature in the batch."""
        return self.name if self.feature is None else self.feature

    def validate(self) -> None:
        """Raise `InvalidArgument` if a field is out of its range."""
        kind = type(self).__name__
        _require_name(f"{kind}.name", self.name)
        if self.feature is not None:
            _require_name(f"{kind}({self.name!r}).feature", self.feature)
        require_int(f"{kind}({self.name!r}).hash_seed", self.hash_seed, low=0, high=SEED_MAX)

    def accepts(self, kind: pa.DataType) -> bool:
        """Say whether a column of the Arrow type `kind` can be this column."""
        return is_key_type(kind)


@dataclass(frozen=True, slots=True)
class SparseList(Sparse):
    """A categorical feature with any number of keys a row; a null list is an empty bag.

    A null within a list is dropped, and its weight with it.

    Args:
        name: the column: lists of what `Sparse` takes.
        feature: as in `Sparse`.
        hash_seed: as in `Sparse`.
        weights: a column of lists of numbers of the same lengths: the weight of each key.
        max_length: keep only the first `max_length` elements of a list; None keeps all.
    """

    _: KW_ONLY
    weights: str | None = None
    max_length: int | None = None

    def validate(self) -> None:
        """Raise `InvalidArgument` if a field is out of its range."""
        Sparse.validate(self)
        if self.weights is not None:
            _require_name(f"SparseList({self.name!r}).weights", self.weights)
        if self.max_length is not None:
            require_int(f"SparseList({self.name!r}).max_length", self.max_length, low=1, high=2**31)

    def accepts(self, kind: pa.DataType) -> bool:
        """Say whether a column of the Arrow type `kind` can be this column."""
        return _is_list(kind) and is_key_type(kind.value_type)


@dataclass(frozen=True, slots=True, init=False)
class Schema:
    """The columns of a data set, in the order in which a batch holds them.

    A string stands for the plain column of its kind: `Schema(label="click", dense=["price"],
    sparse=["user", "item"])`.

    Args:
        label: one label, or several: `Batch.label` is then (B, n_labels).
        dense: numeric features.
        sparse: categorical features, `Sparse` or `SparseList`; a string means `Sparse`.

    Raises:
        InvalidArgument: a column is misdescribed, or a feature named twice.
    """

    labels: tuple[Label, ...]
    dense: tuple[Dense, ...]
    sparse: tuple[Sparse, ...]

    def __init__(
        self,
        *,
        label: str | Label | Sequence[str | Label],
        dense: Iterable[str | Dense] = (),
        sparse: Iterable[str | Sparse] = (),
    ) -> None:
        labels = [label] if isinstance(label, str | Label) else label
        for name, columns in (("dense", dense), ("sparse", sparse)):
            if isinstance(columns, str):
                raise InvalidArgument(f"Schema.{name} must be a list of columns, got {columns!r}")
        put = object.__setattr__
        put(self, "labels", tuple(Label(c) if isinstance(c, str) else c for c in labels))
        put(self, "dense", tuple(Dense(c) if isinstance(c, str) else c for c in dense))
        put(self, "sparse", tuple(Sparse(c) if isinstance(c, str) else c for c in sparse))
        self.validate()

    def validate(self) -> None:
        """Raise `InvalidArgument` if a column is misdescribed, or a feature named twice."""
        groups: tuple[tuple[str, tuple[object, ...], type[Label | Dense | Sparse]], ...] = (
            ("label", self.labels, Label),
            ("dense", self.dense, Dense),
            ("sparse", self.sparse, Sparse),
        )
        for group, columns, kind in groups:
            for column in columns:
                if not isinstance(column, kind):
                    raise InvalidArgument(
                        f"Schema.{group} takes names and {kind.__name__} columns, got {column!r}"
                    )
                column.validate()
        if not self.labels:
            raise InvalidArgument("Schema.label must name at least one column")
        for group, names in (
            ("label", [c.name for c in self.labels]),
            ("dense", [c.name for c in self.dense]),
            ("sparse", [c.key for c in self.sparse]),
        ):
            twice = sorted({n for n in names if names.count(n) > 1})
            if twice:
                raise InvalidArgument(
                    f"Schema.{group} names {twice[0]!r} twice; expected distinct names (a second "
                    "feature of one sparse column needs another `feature`)"
                )

    @property
    def keys(self) -> list[str]:
        """Return the names of the sparse features, in order."""
        return [column.key for column in self.sparse]

    @property
    def columns(self) -> list[str]:
        """Return the names of the columns to read, each once."""
        columns: list[Label | Dense | Sparse] = [*self.labels, *self.dense, *self.sparse]
        names = [c.name for c in columns]
        names += [c.weights for c in self.sparse if isinstance(c, SparseList) and c.weights]
        return list(dict.fromkeys(names))

    def check(self, fields: pa.Schema, where: str) -> None:
        """Raise `InvalidArgument` unless `fields` has every column with a type that fits.

        Args:
            fields: the Arrow schema of a file.
            where: the file's name, for the message.
        """
        columns: list[Label | Dense | Sparse] = [*self.labels, *self.dense, *self.sparse]
        for column in columns:
            kind = _type_of(column.name, fields, where)
            if not column.accepts(kind):
                raise InvalidArgument(
                    f"{where}: column {column.name!r} has Arrow type {kind}, which a "
                    f"{type(column).__name__} column cannot be; expected {_EXPECTED[type(column)]}"
                )
            if isinstance(column, SparseList) and column.weights is not None:
                kind = _type_of(column.weights, fields, where)
                if not (_is_list(kind) and _is_number(kind.value_type)):
                    raise InvalidArgument(
                        f"{where}: column {column.weights!r} has Arrow type {kind}, but the "
                        f"weights of {column.name!r} must be lists of numbers"
                    )


_KEYS = "integers, strings, binary values or a dictionary of them"
_EXPECTED: dict[type[Label | Dense | Sparse], str] = {
    Label: "integers, booleans or floating-point numbers",
    Dense: "integers, booleans or floating-point numbers",
    Sparse: f"{_KEYS} (for lists, describe it as SparseList)",
    SparseList: f"lists of {_KEYS}",
}


def _type_of(name: str, fields: pa.Schema, where: str) -> pa.DataType:
    found = fields.get_all_field_indices(name)
    if len(found) != 1:
        what = "no column" if not found else f"{len(found)} columns named"
        raise InvalidArgument(f"{where}: {what} {name!r}; the file has {fields.names}")
    return fields.field(found[0]).type


def _is_number(kind: pa.DataType) -> bool:
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
    return any(test(kind) for test in tests)


def _is_list(kind: pa.DataType) -> bool:
    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(kind) for test in tests)


def _require_name(field: str, value: object) -> None:
    if not isinstance(value, str) or not value:
        raise InvalidArgument(f"{field} must be a non-empty string, got {value!r}")
