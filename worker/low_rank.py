"""Sums of gradients over the workers in a few columns: PowerSGD, for networks that are slow.

A matrix M (n, m) of gradients travels as P = M Q (n, r) and, with P made orthonormal, as M^T P
(m, r); the sum over the workers is then P (sum of M^T P)^T, of rank r. What a worker's own matrix
has beyond its projection on P stays with it and is added to its next gradient (error feedback), and
Q of one step begins the next (warm start), which makes the steps a power iteration. Nothing is
lost, only late: the sum of all that was sent and of all that is held back is that of the gradients.

From Vogels, Karimireddy, Jaggi: PowerSGD, NeurIPS 2019, algorithms 1 and 2. The hook that torch has
for its DDP is not used: it is bound to buckets and groups of DDP, and a matrix whose gradients are
all zero when it begins never gets others, for its columns stay zero.

Not thread-safe. All workers make the same calls, and hold the same bits of Q and of the sums.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from embery.dense_state import from_tree, to_tree
from embery.observability.logs import facts
from embery.validation import require_int

RANK_MAX = 1024
# A matrix goes as it is unless its columns are so many times fewer numbers.
_SAVING_MIN = 2

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PowerSGD:
    """Dense gradients of float32 travel as matrices of low rank; see the module for how.

    Args:
        rank: columns that a matrix travels in, 1 to 1024. More are nearer to the exact sum.
        seed: of the first columns.
    """

    rank: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        self.validate()

    def validate(self) -> None:
        """Raise `InvalidArgument` naming the field that is out of its range."""
        require_int("PowerSGD.rank", self.rank, low=1, high=RANK_MAX)
        require_int("PowerSGD.seed", self.seed, low=0, high=2**63 - 1)


class LowRankSum:
    """Adds up the gradients of parameters of the given shapes, step after step.

    A parameter of two dimensions or more is a matrix of shape[0] rows. What has fewer, or would
    save less than half of its numbers, travels as it is.

    Args:
        shapes: of the parameters, in their order.
        device: where the gradients lie.
    """

    def __init__(
        self,
        options: PowerSGD,
        shapes: Sequence[Sequence[int]],
        device: torch.device | str = "cpu",
    ) -> None:
        self._sizes = [torch.Size(shape).numel() for shape in shapes]
        self._forms = {
            index: form
            for index, shape in enumerate(shapes)
            if (form := _form_of(shape, options.rank)) is not None
        }
        generator = torch.Generator().manual_seed(options.seed)
        self._q = {
            index: torch.randn(columns, rank, generator=generator).to(device)
            for index, (_, columns, rank) in self._forms.items()
        }
        # What this worker has not sent yet, (n, m).
        self._residuals = {
            index: torch.zeros(rows, columns, device=device)
            for index, (rows, columns, _) in self._forms.items()
        }

    def add_up(self, sum_over_workers: Callable[..., None], flat: Tensor, *others: Tensor) -> None:
        """Replace `flat` by the sum over the workers, of low rank where a parameter is a matrix.

        Args:
            sum_over_workers: replaces tensors by their sums over the workers, the same bits in all.
            flat: the gradients of the parameters one after the other, float32.
            others: are added up exactly, in the same messages.
        """
        parts = flat.split_with_sizes(self._sizes)
        whole = [part for index, part in enumerate(parts) if index not in self._forms]
        for index, residual in self._residuals.items():
            residual.add_(parts[index].view_as(residual))
        p = _Packed([self._residuals[index] @ q for index, q in self._q.items()])
        rest = _Packed(whole)
        sum_over_workers(p.flat, rest.flat, *others)
        bases = [_orthonormal(columns) for columns in p.parts]
        pairs = list(zip(self._residuals.values(), bases, strict=True))
        q = _Packed([residual.T @ basis for residual, basis in pairs])
        for (residual, basis), columns in zip(pairs, q.parts, strict=True):
            residual.addmm_(basis, columns.T, alpha=-1)
        sum_over_workers(q.flat)
        for index, basis, columns in zip(self._forms, bases, q.parts, strict=True):
            torch.mm(basis, columns.T, out=parts[index].view(len(basis), len(columns)))
            self._q[index] = _orthonormal(columns)
        for part, total in zip(whole, rest.parts, strict=True):
            part.copy_(total)

    # -- checkpoints ------------------------------------------------------------------------------

    def state(self, sum_over_workers: Callable[..., None], *, leads: bool) -> dict[str, Any]:
        """Return what a run needs to go on, as a tree; all workers make this call.

        The residuals are handed to the worker that `leads`: so they fit another number of workers,
        and a run that is saved and goes on is the same bits as one that resumes there.
        """
        for index, residual in self._residuals.items():
            total = residual.clone()
            sum_over_workers(total)
            self._residuals[index] = total if leads else torch.zeros_like(total)
        return {
            "q": [to_tree(q) for q in self._q.values()],
            "residuals": [to_tree(residual) for residual in self._residuals.values()],
        }

    def load(self, state: dict[str, Any] | None, *, leads: bool) -> None:
        """Go on from `state`, that of the worker that led; begin anew if it does not fit."""
        found = {"q": [], "residuals": []} if state is None else from_tree(state)
        mine = [*self._q.values(), *self._residuals.values()]
        saved = [*found["q"], *found["residuals"]]
        if [tensor.shape for tensor in saved] != [tensor.shape for tensor in mine]:
            _log.warning(
                "the checkpoint holds no PowerSGD state of this rank and these parameters; what "
                "its workers had not sent yet is lost, and the columns begin anew",
                extra=facts(matrices=len(self._forms), saved=len(found["q"])),
            )
            return
        for tensor, value in zip(mine, saved, strict=True):
            tensor.copy_(value)
        if not leads:
            for residual in self._residuals.values():
                residual.zero_()


class _Packed:
    """Tensors side by side in one, `flat`; `parts` are views of it with their shapes."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.flat = torch.cat([t.reshape(-1) for t in tensors]) if tensors else torch.zeros(1)
        sizes = [tensor.numel() for tensor in tensors]
        views = self.flat.split_with_sizes(sizes) if tensors else ()
        self.parts = [view.view(t.shape) for view, t in zip(views, tensors, strict=True)]


def _orthonormal(columns: Tensor) -> Tensor:
    """Return a basis of the columns, (n, r), laid out as a restored one, for the same bits.

    Householder's reflections find one even of columns of zeros.
    """
    basis: Tensor = torch.linalg.qr(columns).Q
    return basis.contiguous()


def _form_of(shape: Sequence[int], rank: int) -> tuple[int, int, int] | None:
    """Return rows, columns and rank of the matrix that travels in columns; None if none does."""
    if len(shape) < 2 or 0 in shape:
        return None
    rows, columns = shape[0], torch.Size(shape[1:]).numel()
    rank = min(rank, rows, columns)
    saves = (rows + columns) * rank * _SAVING_MIN <= rows * columns
    return (rows, columns, rank) if saves else None
