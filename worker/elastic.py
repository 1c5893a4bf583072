"""A group of workers that come and go between steps.

The coordinator says who is in the group, under an epoch that is never used again; its workers find
each other anew for each. A call that others do not answer ends as soon as one of them is known to
be gone, or asks for the next group itself. The calls are those of `WorkerGroup`.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from embery.errors import DeadlineExceeded, Internal, Unavailable
from embery.launch.contract import DISMISSED, PEER_LOST
from embery.place import Place
from embery.rpc.address import join_address, split_address
from embery.rpc.client import GroupCall, GroupGrant
from embery.rpc.membership import Membership
from embery.worker.group import PeerLost, WorkerGroup, peers_needed

# So often a worker that waits for others looks whether they are still there.
LOOK_S = 0.5
# Of one call. What takes longer, a checkpoint of rank 0 perhaps, lets the workers meet anew.
CALL_SECONDS = 600.0
FORMS_MAX = 8
# Others may be in a long step, or saving a checkpoint.
FORM_SECONDS = 1800.0
# The host of rank 0, as others reach it; see docs/guide/cluster.md.
HOST_VARIABLE = "EMBERY_WORKER_HOST"
_ASK_S = 5.0
_DIGEST_BYTES = 16
_FIND = timedelta(seconds=30)


class ElasticGroup(WorkerGroup):
    """The workers of a run that are there now. Not thread-safe.

    Args:
        membership: of this worker.
    """

    def __init__(self, membership: Membership) -> None:
        super().__init__(Place(elastic=True))
        self._membership = membership
        self._grant: GroupGrant | None = None
        self._peers: Any = None
        self._rendezvous: Any = None
        self._torn = False

    @property
    def call(self) -> GroupCall:
        """Return what this worker shall do about its group."""
        return self._membership.group_call

    @property
    def epoch(self) -> int:
        """Return the epoch of the group; 0 before the first."""
        return 0 if self._grant is None else self._grant.epoch

    def form(self, *, step: int, starting: bool) -> GroupGrant:
        """Wait for the next group, and find its workers.

        Args:
            step: how far the dense parameters are: the others take those of the one who is ahead.
            starting: whether this worker has no state of the run to go on with.

        Raises:
            InvalidArgument: the others went on without this worker.
            PeerLost: workers go, one after the other, before they have found each other.
            SystemExit: there are to be fewer workers, and this one ends.
        """
        for _ in range(FORMS_MAX - 1):
            with suppress(PeerLost):
                return self._form(step, starting)
        return self._form(step, starting)

    def _form(self, step: int, starting: bool) -> GroupGrant:
        self._let_go()
        host = os.environ.get(HOST_VARIABLE, "127.0.0.1")
        with peers_needed():
            offer = TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=_FIND)
        grant = self._ask(step, join_address(host, offer.port), starting)
        self._grant, self.rank, self.world_size = grant, grant.rank, grant.world_size
        self._rendezvous = offer
        if grant.world_size == 1:
            return grant
        with peers_needed():
            if grant.rank:
                found, port = split_address(grant.address, "group")
                self._rendezvous = TCPStore(found, port, is_master=False, timeout=_FIND)
            store = PrefixStore(str(grant.epoch), self._rendezvous)
            self._peers = distributed.ProcessGroupGloo(
                store, grant.rank, grant.world_size, timedelta(seconds=CALL_SECONDS)
            )
        return grant

    def share(self, data: bytes, *, source: int) -> bytes:
        """Return the bytes that rank `source` gave, the same in all workers.

        Raises:
            PeerLost: as `add_up`.
            Internal: they are not what was sent.
        """
        if self.world_size == 1:
            return data
        head = np.frombuffer(np.int64(len(data)).tobytes() + _digest(data), np.uint8).copy()
        self.broadcast(torch.from_numpy(head), source=source)
        size = int(head[:8].view(np.int64)[0])
        mine = data if self.rank == source else bytes(size)
        body = torch.from_numpy(np.frombuffer(mine, np.uint8).copy())
        self.broadcast(body, source=source)
        found = body.numpy().tobytes()
        if _digest(found) != head[8:].tobytes():
            raise Internal(
                f"the state of rank {source} came with another checksum than it was sent"
            )
        return found

    def _ask(self, step: int, address: str, starting: bool) -> GroupGrant:
        deadline = time.monotonic() + FORM_SECONDS
        while True:
            try:
                grant = self._membership.ask_for_group(
                    epoch=self.epoch, step=step, address=address, starting=starting, wait_s=_ASK_S
                )
            except (Unavailable, DeadlineExceeded):
                if time.monotonic() > deadline:
                    raise
                continue
            if grant is None:
                # The launcher knows by this line that it is meant to end.
                print(f"{DISMISSED}fewer workers are wanted", flush=True)
                raise SystemExit(0)
            return grant

    def _let_go(self) -> None:
        """Leave the workers of the group before.

        To take one apart in which a call has failed would wait for others that nobody answers any
        more: it stays, unused.
        """
        if self._torn:
            for kept in (self._peers, self._rendezvous):
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))
        self._peers = self._rendezvous = None
        self._torn = False
        self.rank, self.world_size = 0, 1

    def _all_reduce(self, tensors: Sequence[Tensor]) -> None:
        for work in [self._peers.allreduce([tensor]) for tensor in tensors]:
            self._wait(work)

    def _send(self, tensor: Tensor, source: int) -> None:
        options = distributed.BroadcastOptions()
        options.rootRank, options.rootTensor = source, 0
        self._wait(self._peers.broadcast([tensor], options))

    def _wait(self, work: Any) -> None:
        """Wait for a call, as long as the others are there."""
        deadline = time.monotonic() + CALL_SECONDS
        while True:
            try:
                work.wait(timedelta(seconds=LOOK_S))
                return
            except RuntimeError:
                if work.is_completed() or time.monotonic() > deadline:
                    self._torn = True
                    raise
            if self.call in ("now", "fenced"):
                self._torn = True
                raise PeerLost(f"{PEER_LOST}; group {self.epoch} ends")

    def _connect(self) -> None:
        """Do nothing: `form` has found the others."""


def _digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=_DIGEST_BYTES).digest()
