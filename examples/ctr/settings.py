"""The settings of a run, read from JSON: data, tables, model, training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

import embery as em

Part = TypeVar("Part", bound="DataSettings | TableSettings | ModelSettings | TrainSettings")


@dataclass(frozen=True, slots=True)
class DataSettings:
    """Where the rows are and what the columns mean.

    Args:
        train, valid, test: files, folders or globs within the folder of the data.
        format: "parquet", or "criteo_tsv", which brings its own columns.
        label, dense, sparse: names of the columns of Parquet files.
        dense_transform: "log1p" for counts, or None; see `em.data.Dense`.
    """

    train: str
    valid: str
    test: str
    format: Literal["parquet", "criteo_tsv"] = "parquet"
    label: str = "label"
    dense: tuple[str, ...] = ()
    sparse: tuple[str, ...] = ()
    dense_transform: Literal["log1p"] | None = None

    def open(self, folder: Path, part: str, *, batch_size: int, seed: int) -> em.data.Dataset:
        """Return the rows of `part`, "train", "valid" or "test"; those of training are shuffled."""
        path = folder / getattr(self, part)
        shuffle = part == "train"
        if self.format == "criteo_tsv":
            return em.data.CriteoTSV(path, batch_size=batch_size, shuffle=shuffle, seed=seed)
        schema = em.data.Schema(
            label=self.label,
            dense=[em.data.Dense(name, transform=self.dense_transform) for name in self.dense],
            sparse=self.sparse,
        )
        return em.data.Parquet(
            path, schema=schema, batch_size=batch_size, shuffle=shuffle, seed=seed
        )


@dataclass(frozen=True, slots=True)
class TableSettings:
    """How the rows of all tables begin, learn and are let in.

    Args:
        optimizer: "kind", such as "adam", and its parameters, as `em.optim` names them.
        init_std: standard deviation of the first values.
        min_count: batches that must have shown a key before it gets a row; 1 admits all.
    """

    optimizer: Mapping[str, Any]
    init_std: float = 1e-4
    min_count: int = 1

    def table(self, name: str, *, dim: int, seed: int) -> em.Table:
        """Return the definition of one table."""
        return em.Table(
            name,
            dim=dim,
            optimizer=em.optim.from_dict(self.optimizer),
            initializer=em.init.Normal(self.init_std, seed=seed),
            admission=em.MinCount(self.min_count) if self.min_count > 1 else None,
        )


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """Which model, and the sizes of its dense part.

    Args:
        name: a key of `models.MODELS`.
        dim: columns of an embedding.
        hidden: widths of the MLP's layers.
        cross_layers: of DCN-V2.
        dropout: share of the MLP's activations set to zero in training.
        batch_norm: normalise before each ReLU.
    """

    name: str
    dim: int = 10
    hidden: tuple[int, ...] = (400, 400, 400)
    cross_layers: int = 3
    dropout: float = 0.0
    batch_norm: bool = False


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """How to train.

    Args:
        batch_size: rows of a batch.
        lr: step of Adam on the dense part.
        weight_decay: L2 penalty of the dense part.
        epochs: passes over the data, at most.
        patience: epochs without a better AUC on the valid rows before training stops.
    """

    batch_size: int = 4096
    lr: float = 1e-3
    weight_decay: float = 0.0
    epochs: int = 50
    patience: int = 2


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of a run."""

    data: DataSettings
    table: TableSettings
    model: ModelSettings
    train: TrainSettings = field(default_factory=TrainSettings)

    @staticmethod
    def load(path: Path) -> Settings:
        """Return the settings in the JSON file `path`.

        Raises:
            InvalidArgument: a section or a field is missing, or there is one that nothing reads.
        """
        sections = json.loads(path.read_text(encoding="utf-8"))
        kinds = {
            "data": DataSettings,
            "table": TableSettings,
            "model": ModelSettings,
            "train": TrainSettings,
        }
        if set(sections) != set(kinds):
            raise em.InvalidArgument(
                f"{path}: expected the sections {sorted(kinds)}, got {sorted(sections)}"
            )
        return Settings(
            **{k: _part(kind, sections[k], f"{path}: {k}") for k, kind in kinds.items()}
        )


def _part(kind: type[Part], values: Mapping[str, Any], where: str) -> Part:
    names = [f.name for f in fields(kind)]
    if unknown := sorted(set(values) - set(names)):
        raise em.InvalidArgument(f"{where}.{unknown[0]} is not known; expected some of {names}")
    try:
        return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    except TypeError as error:
        raise em.InvalidArgument(f"{where}: {error}") from error
