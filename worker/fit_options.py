"""What `Trainer.fit` is told, and what it returns."""

from __future__ import annotations

import os
from dataclasses import dataclass

from embery.errors import InvalidArgument
from embery.validation import require_int
from embery.worker.lookahead import DEPTH_MAX
from embery.worker.modes import Mode
from embery.worker.reporting import ReportOptions

_COUNT_MAX = 2**62
# Whether more of the metric is better.
MONITORS = {"auc": True, "logloss": False}


@dataclass(frozen=True, slots=True)
class FitOptions:
    """The options of `Trainer.fit`, which documents them."""

    epochs: int
    checkpoint: str | os.PathLike[str] | None
    checkpoint_every: int | None
    keep: int | None
    resume: bool
    look_ahead: bool
    depth: int
    max_steps: int | None
    monitor: str
    patience: int | None
    restore_best: bool
    report: ReportOptions

    def validate(self, mode: Mode, *, has_valid: bool) -> None:
        """Raise `InvalidArgument` naming the option that is wrong."""
        require_int("fit: epochs", self.epochs, low=1, high=_COUNT_MAX)
        require_int("fit: depth", self.depth, low=1, high=DEPTH_MAX)
        for name in ("checkpoint_every", "keep", "max_steps", "patience"):
            if getattr(self, name) is not None:
                require_int(f"fit: {name}", getattr(self, name), low=1, high=_COUNT_MAX)
        if self.monitor not in MONITORS:
            raise InvalidArgument(
                f"fit: monitor must be one of {list(MONITORS)}, got {self.monitor!r}"
            )
        if self.checkpoint is None:
            for name in ("checkpoint_every", "keep", "resume"):
                if getattr(self, name):
                    raise InvalidArgument(f"fit: {name} needs checkpoint, the folder to use")
        if not has_valid and (self.patience is not None or self.restore_best):
            raise InvalidArgument("fit: patience and restore_best need valid, to compare epochs")
        if mode.staleness_max and not self.look_ahead:
            raise InvalidArgument(
                f"fit: {mode} reads ahead by its nature; look_ahead=False goes with em.Sync()"
            )
        self.report.validate()


@dataclass(frozen=True, slots=True)
class FitResult:
    """What `Trainer.fit` returns.

    Attributes:
        history: one dict an epoch: "epoch", "step", "train/loss", "train/auc", "train/logloss",
            "train/calibration", and the same under "valid/" where there is `valid`.
        steps: steps taken in all, those before a resume included.
        samples: samples seen in all.
        stopped: "epochs", "max_steps" or "patience".
        best_epoch: the epoch with the best monitored metric, or None without `valid`.
        staleness_seen: the largest staleness of a batch; 0 in Sync mode.
    """

    history: list[dict[str, float]]
    steps: int
    samples: int
    stopped: str
    best_epoch: int | None
    staleness_seen: int
