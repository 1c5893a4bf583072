"""The way of pooled rows from host memory to the model's device, and of gradients back.

Rows are pulled, pooled and pushed in host memory, whatever the device of the dense model. On the
CPU staging is nothing; for a CUDA device it is pinned buffers and a stream of its own, so that a
copy overlaps with what the model's stream computes.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from embery.errors import InvalidArgument


class Staging(Protocol):
    """Moves tensors between host memory and one device."""

    @property
    def device(self) -> torch.device:
        """Return the device that `to_device` moves to."""
        ...

    def empty(self, *shape: int) -> Tensor:
        """Return a float32 host tensor that suits `to_device`."""
        ...

    def to_device(self, host: Tensor) -> Tensor:
        """Return `host` on the device, ready for the current stream; `host` may be dropped."""
        ...

    def to_host(self, tensor: Tensor) -> Tensor:
        """Return what the current stream computes, complete, in host memory."""
        ...


class HostStaging:
    """No staging: the model computes on the CPU, in the memory where rows are pooled."""

    device = torch.device("cpu")

    def empty(self, *shape: int) -> Tensor:
        """Return a tensor in ordinary memory."""
        return torch.empty(shape, dtype=torch.float32)

    def to_device(self, host: Tensor) -> Tensor:
        """Return `host` itself."""
        return host

    def to_host(self, tensor: Tensor) -> Tensor:
        """Return `tensor` itself."""
        return tensor


class CudaStaging:
    """Pinned host memory, and copies on a stream of their own, ordered by events.

    torch's caching allocator of pinned memory keeps a buffer until the copies that read it are
    done, so the caller may drop it at once.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def empty(self, *shape: int) -> Tensor:
        """Return a tensor in pinned memory."""
        return torch.empty(shape, dtype=torch.float32, pin_memory=True)

    def to_device(self, host: Tensor) -> Tensor:
        """Copy on the side stream; the current stream waits for the copy, the host does not."""
        current = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self._stream):
            moved = host.to(self.device, non_blocking=True)
        current.wait_event(self._stream.record_event())
        moved.record_stream(current)
        return moved

    def to_host(self, tensor: Tensor) -> Tensor:
        """Copy on the side stream once the current stream has computed `tensor`; wait for it."""
        source = tensor.contiguous()
        host = self.empty(*source.shape)
        self._stream.wait_event(torch.cuda.current_stream(self.device).record_event())
        with torch.cuda.stream(self._stream):
            host.copy_(source, non_blocking=True)
        source.record_stream(self._stream)
        self._stream.record_event().synchronize()
        return host


def staging_for(device: torch.device | str) -> Staging:
    """Return the staging for `device`.

    Raises:
        InvalidArgument: the device is neither the CPU nor CUDA, or this machine has no CUDA.
    """
    wanted = torch.device(device)
    if wanted.type == "cpu":
        return HostStaging()
    if wanted.type != "cuda":
        raise InvalidArgument(f"device must be 'cpu' or 'cuda', got {str(device)!r}")
    if not torch.cuda.is_available():
        raise InvalidArgument(
            f"device={str(device)!r}: torch {torch.__version__} finds no CUDA device here; use "
            "device='cpu'"
        )
    index = torch.cuda.current_device() if wanted.index is None else wanted.index
    return CudaStaging(torch.device("cuda", index))
