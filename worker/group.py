"""The workers of a run, which train one model together.

Every worker has a share of each batch, and a copy of the dense parameters that stays the same in
all of them: it begins as that of rank 0, and every step adds up the gradients of the shares. The
calls here are collective: each worker makes the same ones in the same order, or all are stuck until
the deadline. Not thread-safe. With one worker nothing is sent and torch.distributed stays unused.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import numpy as np
import torch
from torch import Tensor, distributed, nn

from embery.data import Batch
from embery.errors import InvalidArgument, Unavailable
from embery.jagged import KeyedJaggedTensor
from embery.launch.contract import PEER_LOST
from embery.place import Place
from embery.rpc.client import GroupCall
from embery.worker.hosts import HostGroups
from embery.worker.low_rank import LowRankSum

# Of one call. The slowest thing that others wait for is a checkpoint of rank 0.
TIMEOUT_S = 1800

DenseWire = Literal["float32", "bfloat16", "float16"]
_WIRES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
DENSE_WIRES = tuple(_WIRES)


@dataclass(frozen=True, slots=True)
class Share(Batch):
    """The rows of a batch that fall to one worker; there may be none.

    Args:
        rows_whole: rows of the whole batch, at least 1.
    """

    rows_whole: int

    @property
    def weight(self) -> float:
        """Return what the mean over these rows counts in that over the whole batch."""
        return len(self) / self.rows_whole


class PeerLost(Unavailable):
    """Another worker has gone, or did not answer in time."""


class WorkerGroup:
    """The workers of a run, as seen by the one of `place`."""

    def __init__(self, place: Place) -> None:
        self.rank, self.world_size = place.rank, place.world_size
        # Whether workers come and go: see `ElasticGroup`.
        self.elastic = place.elastic
        self._connected = False
        self._hosts: HostGroups | None = None

    @staticmethod
    def of_run(environment: Mapping[str, str] = os.environ) -> WorkerGroup:
        """Return the group that this process was launched in: itself alone without `embery run`.

        Raises:
            InvalidArgument: the environment is contradictory.
        """
        return WorkerGroup(Place.of(environment))

    @property
    def alone(self) -> bool:
        """Return whether there is no other worker, and never will be."""
        return self.world_size == 1 and not self.elastic

    @property
    def call(self) -> GroupCall:
        """Return what to do about the group; in one whose workers stay the same, nothing."""
        return "none"

    @property
    def leads(self) -> bool:
        """Return whether this is rank 0, which writes what is written once."""
        return self.rank == 0

    # -- shares -----------------------------------------------------------------------------------

    def shares(self, batches: Iterable[Batch]) -> Iterator[Share]:
        """Yield this worker's rows of each batch: rank r of M has r B / M to (r + 1) B / M of B.

        All workers must be given the same batches, as an `em.data.Dataset` of one seed gives them.

        Raises:
            InvalidArgument: from `next()`, a batch is not an `em.data.Batch`.
        """
        for batch in batches:
            if not isinstance(batch, Batch):
                raise InvalidArgument(
                    "several workers share out batches of type em.data.Batch, got "
                    f"{type(batch).__name__}; yield em.data.Batch, or train with --workers 1"
                )
            yield self.share_of(batch)

    def share_of(self, batch: Batch) -> Share:
        """Return this worker's rows of `batch`."""
        rows = len(batch)
        begin = self.rank * rows // self.world_size
        end = (self.rank + 1) * rows // self.world_size
        return Share(
            label=batch.label[begin:end],
            dense=None if batch.dense is None else batch.dense[begin:end],
            sparse=None if batch.sparse is None else _samples_of(batch.sparse, begin, end),
            index=batch.index,
            rows_whole=rows,
        )

    # -- collective calls -------------------------------------------------------------------------

    def add_up(self, *tensors: Tensor) -> None:
        """Replace each tensor by its sum over the workers, the same bits in all of them.

        Raises:
            Unavailable: a worker has gone, or did not make this call in time.
        """
        if self.world_size > 1 and tensors:
            self._connect()
            with peers_needed():
                self._all_reduce(tensors)

    def add_up_arrays(self, *arrays: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> None:
        """Replace each array by its sum over the workers; errors as of `add_up`."""
        self.add_up(*(torch.from_numpy(array) for array in arrays))

    def broadcast(self, *tensors: Tensor, source: int = 0) -> None:
        """Replace each tensor by that of rank `source`; errors as of `add_up`."""
        if self.world_size > 1:
            self._connect()
            with peers_needed():
                for tensor in tensors:
                    self._send(tensor, source)

    def broadcast_text(self, text: str) -> str:
        """Return the text that rank 0 gave; errors as of `add_up`."""
        if self.world_size == 1:
            return text
        data = torch.frombuffer(bytearray(text.encode() or b" "), dtype=torch.uint8)
        size = torch.tensor([data.numel() if text else 0])
        self.broadcast(size)
        if not self.leads:
            data = torch.empty(int(size), dtype=torch.uint8)
        if int(size):
            self.broadcast(data)
        return bytes(data.numpy()).decode() if int(size) else ""

    def barrier(self) -> None:
        """Wait until every worker is here; errors as of `add_up`."""
        self.add_up(torch.zeros(1))

    # -- models -----------------------------------------------------------------------------------

    def begin_alike(self, model: nn.Module) -> None:
        """Give the model of every worker the parameters and buffers of rank 0's."""
        with torch.no_grad():
            self.broadcast(*model.state_dict().values())

    def average_buffers(self, model: nn.Module) -> None:
        """Give all models the mean of their floating-point buffers: running statistics, mostly.

        A batch norm sees the rows of its own worker; in the mean all rows count.
        """
        if self.world_size == 1:
            return
        buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        self.add_up(*buffers)
        for buffer in buffers:
            buffer.div_(self.world_size)

    def reduce(
        self,
        optimizer: torch.optim.Optimizer | None,
        numbers: list[float],
        *,
        wire: DenseWire | LowRankSum = "float32",
    ) -> list[float]:
        """Add up the gradients of the parameters of `optimizer`; return the sums of `numbers`.

        A parameter that has a gradient in some workers gets it in all. Those of float32 travel, and
        are added up, as `wire` says: in a dtype, or by one that was made for these parameters.
        Errors as of `add_up`.
        """
        groups = [] if optimizer is None else optimizer.param_groups
        parameters = [parameter for group in groups for parameter in group["params"]]
        present = [float(parameter.grad is not None) for parameter in parameters]
        flat = {dtype: _flat_gradients(parameters, dtype) for dtype in _dtypes(parameters)}
        # Numbers travel as float64: sums of losses keep their bits.
        sums = torch.tensor([*numbers, *present], dtype=torch.float64)
        if isinstance(wire, LowRankSum):
            others = [gradients for dtype, gradients in flat.items() if dtype != torch.float32]
            wire.add_up(self.add_up, flat[torch.float32], sums, *others)
        else:
            sent = {k: g.to(_WIRES[wire]) if k == torch.float32 else g for k, g in flat.items()}
            self.add_up(sums, *sent.values())
            flat = {dtype: gradients.to(dtype) for dtype, gradients in sent.items()}
        found = sums.tolist()
        for dtype, gradients in flat.items():
            mine = [p for p in parameters if p.dtype == dtype]
            parts = gradients.split_with_sizes([p.numel() for p in mine])
            for parameter, part in zip(mine, parts, strict=True):
                parameter.grad = part.view_as(parameter)
        for parameter, owners in zip(parameters, found[len(numbers) :], strict=True):
            if owners == 0:
                parameter.grad = None
        return found[: len(numbers)]

    def _all_reduce(self, tensors: Sequence[Tensor]) -> None:
        if self._hosts is not None:
            self._hosts.add_up(tensors)
            return
        for work in [distributed.all_reduce(tensor, async_op=True) for tensor in tensors]:
            work.wait()

    def _send(self, tensor: Tensor, source: int) -> None:
        distributed.broadcast(tensor, src=source)

    def _connect(self) -> None:
        """Find the other workers, on the first collective call; keep a group that is there."""
        if self._connected:
            return
        if not distributed.is_initialized():
            with peers_needed():
                distributed.init_process_group(
                    "gloo",
                    rank=self.rank,
                    world_size=self.world_size,
                    timeout=timedelta(seconds=TIMEOUT_S),
                )
            # Threads of gloo that are still there when the interpreter ends would abort it.
            atexit.register(_disconnect)
        found = (distributed.get_rank(), distributed.get_world_size())
        if found != (self.rank, self.world_size):
            raise InvalidArgument(
                f"torch.distributed was initialised as rank {found[0]} of {found[1]}, but the "
                f"launcher made this rank {self.rank} of {self.world_size}"
            )
        with peers_needed():
            timeout = timedelta(seconds=TIMEOUT_S)
            self._hosts = HostGroups.of_workers(self.rank, self.world_size, timeout)
        self._connected = True


def _disconnect() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


@contextmanager
def peers_needed() -> Iterator[None]:
    """Turn the errors of torch.distributed, RuntimeErrors all of them, into ours."""
    try:
        yield
    except RuntimeError as error:
        raise PeerLost(f"{PEER_LOST}, or did not answer in time ({error})") from error


def _samples_of(kjt: KeyedJaggedTensor, begin: int, end: int) -> KeyedJaggedTensor:
    """Return samples begin..end-1 of every feature."""
    samples = kjt.stride()
    lengths, offsets = kjt.lengths(), kjt.offsets().tolist()
    firsts = [feature * samples for feature in range(len(kjt.keys()))]
    spans = [slice(offsets[first + begin], offsets[first + end]) for first in firsts]
    weights = kjt.weights_or_none()
    return KeyedJaggedTensor(
        kjt.keys(),
        torch.cat([kjt.values()[span] for span in spans]),
        lengths=torch.cat([lengths[first + begin : first + end] for first in firsts]),
        weights=None if weights is None else torch.cat([weights[span] for span in spans]),
    )


def _dtypes(parameters: Iterable[nn.Parameter]) -> list[torch.dtype]:
    return list(dict.fromkeys(parameter.dtype for parameter in parameters))


def _flat_gradients(parameters: Iterable[nn.Parameter], dtype: torch.dtype) -> Tensor:
    """Return the gradients of the parameters of one dtype, one after the other."""
    return torch.cat(
        [
            (torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1)
            for p in parameters
            if p.dtype == dtype
        ]
    )
