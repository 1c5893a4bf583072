"""The two autograd nodes of the embedding modules, one for all their tables.

The rows enter as one flat tensor. Their gradient does not flow on: it is logged for the push, and
autograd sees None.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from embery._native import BatchPlan, BatchPlanner
from embery.worker.gradients import Gradient, GradientLog
from embery.worker.staging import Staging


@dataclass(frozen=True, slots=True)
class Pass:
    """What a forward pass leaves for its backward pass.

    `columns` has the columns of each feature; `order` numbers the pass in its collection.
    """

    planner: BatchPlanner
    plan: BatchPlan
    staging: Staging
    gradients: GradientLog
    columns: tuple[int, ...]
    order: int

    def log(self, rows: Tensor) -> None:
        """Keep the gradient of the rows for the push."""
        self.gradients.add(Gradient(self.order, self.plan, rows))

    def empty_rows(self) -> Tensor:
        """Return room for the gradient of all rows."""
        return torch.empty(self.plan.float_count, dtype=torch.float32)


class PoolRows(torch.autograd.Function):
    """rows (flat), weights (N,) or None -> (B, sum of columns), on the device of the staging."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weights: Tensor | None, step: Pass) -> Tensor:
        """Pool the rows of each sample; the plan holds the values of the weights."""
        ctx.step = step
        ctx.save_for_backward(rows, weights)
        host = step.staging.empty(step.plan.samples, sum(step.columns))
        step.planner.pool(step.plan, rows.numpy(), host.numpy())
        return step.staging.to_device(host)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[None, Tensor | None, None]:
        """Log the gradient of the rows; return that of the weights."""
        step: Pass = ctx.step
        rows, weights = ctx.saved_tensors
        grad = _with_contiguous_rows(step.staging.to_host(grad_out)).numpy()
        if ctx.needs_input_grad[0]:
            grad_rows = step.empty_rows()
            step.planner.pool_backward(step.plan, grad, grad_rows.numpy())
            step.log(grad_rows)
        grad_weights = None
        if ctx.needs_input_grad[1]:
            on_host = torch.empty(step.plan.batch_values, dtype=torch.float32)
            step.planner.weights_backward(step.plan, rows.numpy(), grad, on_host.numpy())
            grad_weights = on_host.to(weights.device)
        return None, grad_weights, None


def _with_contiguous_rows(matrix: Tensor) -> Tensor:
    """Return `matrix`, copied unless it is a slice of a wider one, which can be read as it lies."""
    row_stride, column_stride = matrix.stride()
    readable = column_stride == 1 and row_stride >= matrix.shape[1]
    return matrix if readable else matrix.contiguous()


class GatherRows(torch.autograd.Function):
    """rows (flat) -> one (values of the feature, columns) a feature, on the staging's device."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, step: Pass) -> tuple[Tensor, ...]:
        """Copy the row of each value."""
        ctx.step = step
        host = [
            step.staging.empty(end - begin, columns)
            for (begin, end), columns in zip(step.plan.value_ranges, step.columns, strict=True)
        ]
        step.planner.gather(step.plan, rows.numpy(), [tensor.numpy() for tensor in host])
        return tuple(step.staging.to_device(tensor) for tensor in host)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_out: Tensor) -> tuple[None, None]:
        """Log the gradient of the rows."""
        step: Pass = ctx.step
        grads = [step.staging.to_host(grad).contiguous().numpy() for grad in grad_out]
        grad_rows = step.empty_rows()
        step.planner.gather_backward(step.plan, grads, grad_rows.numpy())
        step.log(grad_rows)
        return None, None
