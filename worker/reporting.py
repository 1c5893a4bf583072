"""How training is shown: a progress bar for who is looking, TensorBoard for who looks later."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embery.errors import InvalidArgument
from embery.launch.contract import columns_of
from embery.store import Store
from embery.validation import require_int

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """What is shown.

    `progress` None shows a bar where stderr is a terminal, or comes to one through the launcher.
    `log_dir` is where TensorBoard's events go; None writes none. Curves get a point every
    `log_every` steps.
    """

    progress: bool | None = None
    log_dir: str | os.PathLike[str] | None = None
    log_every: int = 50

    def validate(self) -> None:
        """Raise `InvalidArgument` naming the field that is wrong."""
        require_int("log_every", self.log_every, low=1, high=2**31)


class Reporter:
    """Shows the steps of one run; a context manager that closes the bar and the log."""

    def __init__(self, options: ReportOptions, store: Store) -> None:
        self._options = options
        self._store = store
        self._writer = None if options.log_dir is None else _open_writer(options.log_dir)
        self._columns = columns_of(os.environ)
        is_seen = sys.stderr.isatty() or self._columns is not None
        self._shows = is_seen if options.progress is None else options.progress
        self._bar: Any = None
        self._begin_window()

    def __enter__(self) -> Reporter:
        return self

    def __exit__(self, *_: object) -> None:
        self._close_bar()
        if self._writer is not None:
            self._writer.close()

    def begin_epoch(self, epoch: int, *, done: int, total: int | None) -> None:
        """Open a bar for an epoch of `total` batches, `done` of which are behind."""
        self._close_bar()
        self._begin_window()
        if self._shows:
            from tqdm import tqdm  # noqa: PLC0415  optional, and slow to import

            self._bar = tqdm(
                desc=f"epoch {epoch}",
                total=total,
                initial=done,
                unit="batch",
                file=sys.stderr,
                ncols=self._columns,
            )

    def step(self, number: int, *, loss: float, samples: int) -> None:
        """Show step `number`, counted from 1."""
        self._steps += 1
        self._samples += samples
        self._loss_sum += loss
        if self._bar is not None:
            self._bar.update(1)
        if self._steps < self._options.log_every:
            return
        mean = self._loss_sum / self._steps
        rate = self._samples / max(time.monotonic() - self._began, 1e-9)
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {mean:.4f}, {rate:,.0f} samples/s")
        self.scalars(number, {"train/loss": mean, "train/samples_per_s": rate})
        self._begin_window()

    def end_epoch(self, number: int, record: Mapping[str, float]) -> None:
        """Show the metrics after an epoch, and the rows of each table."""
        tables = self._store.stats()["tables"]
        rows = {f"rows/{name}": float(stats["rows"]) for name, stats in tables.items()}
        # "train/auc" and the like; the rest of a record says which epoch it is.
        metrics = {name: value for name, value in record.items() if "/" in name}
        self.scalars(number, {**metrics, **rows})
        if self._bar is not None:
            shown = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
            self._bar.write(f"step {number}: {shown}", file=sys.stderr)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to the curve of each value."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def _begin_window(self) -> None:
        self._steps, self._samples, self._loss_sum = 0, 0, 0.0
        self._began = time.monotonic()

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _open_writer(log_dir: str | os.PathLike[str]) -> SummaryWriter:
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  optional
    except ImportError as error:
        raise InvalidArgument(
            f"log_dir={str(log_dir)!r} needs TensorBoard: pip install 'embery[train]'"
        ) from error
    return SummaryWriter(str(log_dir))
