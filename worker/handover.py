"""What a step leaves to those who go on, when a worker is lost or others come.

In Sync mode the workers push a batch together, as the batch of one lease: those of the next group
repeat a step that was not taken, and servers leave out what they have. In Hybrid mode each worker
pushes its share by itself, as the batch of a lease of its own, a few steps behind the dense
parameters, which have taken these steps. Of a worker that is lost, nobody knows which of its last
shares were pushed: rank 0 pushes them all again, by the same leases, before anyone goes on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from embery.data import Batch
from embery.place import Place
from embery.rpc.client import GroupGrant
from embery.store import BatchIdentity
from embery.worker.batches import batches_of, closing_iterator
from embery.worker.group import WorkerGroup

if TYPE_CHECKING:
    from embery.worker.trainer import Labelled, Trainer


@dataclass(frozen=True, slots=True)
class DataPlace:
    """Step `step` of the run is that of batch `batch` of an epoch of the data."""

    epoch: int
    batch: int
    step: int


@dataclass(frozen=True, slots=True)
class Shares:
    """How a group shares batches out, from step `begin` on.

    `lease` is that of the shares of rank 0; those of the other ranks of `world` follow.
    """

    epoch: int
    lease: int
    world: int
    begin: int


@dataclass(frozen=True, slots=True)
class Owed:
    """Shares of `rank` of `world` of steps [begin, end), which may not have been pushed."""

    lease: int
    rank: int
    world: int
    begin: int
    end: int


class Handover:
    """Of one run of `fit`. Not thread-safe.

    Args:
        trainer: of the run.
        grant: the group that the run begins in, or that this worker has come to.
    """

    def __init__(self, trainer: Trainer, grant: GroupGrant) -> None:
        self._trainer = trainer
        self._lease = grant.lease
        self._shares = _shares_of(grant, 0)
        # Of which this worker has taken steps, as which rank.
        self._epoch, self._rank = grant.epoch, grant.rank
        self._owed: list[Owed] = []

    def batch(self, step: int) -> BatchIdentity:
        """Return by what servers know this worker's push of a step."""
        exact = self._trainer.mode.staleness_max == 0
        lease = self._lease if exact else self._shares.lease + self._rank
        return BatchIdentity(lease, self._epoch, step + 1)

    def state(self) -> dict[str, Any]:
        """Return what others need to know, as a tree."""
        owed = [asdict(each) for each in self._owed]
        return {"lease": self._lease, "shares": asdict(self._shares), "owed": owed}

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned in another worker."""
        self._lease = state["lease"]
        self._shares = Shares(**state["shares"])
        self._owed = [Owed(**each) for each in state["owed"]]

    def settle(
        self, grant: GroupGrant, dataset: Iterable[Labelled], place: DataPlace, step: int | None
    ) -> None:
        """Push what workers that are gone may not have, and go on as a member of the group.

        Args:
            place: where the run is.
            step: up to which this worker's own shares are pushed; None if it had none.

        Raises:
            PeerLost: another worker has gone; this is to be done again.
        """
        group = self._trainer.group
        if self._trainer.mode.staleness_max:
            told = np.zeros(self._shares.world, np.int64)
            if step is not None and self._epoch == self._shares.epoch:
                told[self._rank] = step + 1
            group.add_up_arrays(told)
            self._owed += self._find_owed(told.tolist(), place)
        self._shares = _shares_of(grant, place.step)
        self._epoch, self._rank = grant.epoch, grant.rank
        if group.leads:
            for owed in self._owed:
                self._pay(owed, dataset, place)
        group.barrier()
        self._owed = []

    def _find_owed(self, told: list[int], place: DataPlace) -> list[Owed]:
        """Return what may be missing, where rank r has told that it pushed told[r] - 1 steps."""
        shares, found = self._shares, []
        # All is pushed at the end of an epoch; within it, no worker was further behind than this.
        latest = place.step - self._trainer.mode.staleness_max - 2
        earliest = max(shares.begin, place.step - place.batch, latest)
        for rank, steps in enumerate(told):
            # In a group that has taken no step yet nothing can be missing.
            begin = max(shares.begin, steps - 1) if steps else earliest
            if begin < place.step:
                lease = shares.lease + rank
                found.append(Owed(lease, rank, shares.world, begin, place.step))
        return found

    def _pay(self, owed: Owed, dataset: Iterable[Labelled], place: DataPlace) -> None:
        former = WorkerGroup(Place(owed.rank, owed.world))
        start = place.batch - (place.step - owed.begin)
        batches: Any = batches_of(dataset, epoch=place.epoch, start=start)
        with closing_iterator(batches):
            for step, batch in enumerate(islice(batches, owed.end - owed.begin), owed.begin):
                share = former.share_of(cast("Batch", self._trainer.to_device(batch)))
                if len(share):
                    for push in self._trainer.pushes_of(share):
                        push.apply(BatchIdentity(owed.lease, self._epoch, step + 1))


def _shares_of(grant: GroupGrant, step: int) -> Shares:
    return Shares(grant.epoch, grant.shares, grant.world_size, step)
