"""Sums over workers on several hosts, which cross the network once a host.

Workers of one host add up among themselves, one of each host adds up with those of the others, and
hands the sum on. So of N bytes on H hosts 2 N (H - 1) / H leave and reach a host, whatever number
of workers is on it, in 2 (H - 1) messages instead of one for each worker.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed

from embery.rpc.address import host_identity

_DIGEST_BYTES = 16


class HostGroups:
    """The workers of this one's host, and the first of each host. Collective, not thread-safe.

    Args:
        hosts: the host of each rank; equal for ranks on one host.
        rank: of this worker.
        timeout: of a call.
    """

    def __init__(self, hosts: Sequence[bytes], rank: int, timeout: timedelta) -> None:
        members = {
            host: [r for r, other in enumerate(hosts) if other == host]
            for host in dict.fromkeys(hosts)
        }
        mine = members[hosts[rank]]
        self._first, self._several = mine[0], len(mine) > 1
        self._leads = rank == self._first
        # Every worker makes every group, in the same order; so torch wants it.
        made = {
            host: distributed.new_group(ranks, timeout=timeout)
            for host, ranks in members.items()
            if len(ranks) > 1
        }
        self._host = made.get(hosts[rank])
        self._across = distributed.new_group([m[0] for m in members.values()], timeout=timeout)

    @staticmethod
    def of_workers(rank: int, world_size: int, timeout: timedelta) -> HostGroups | None:
        """Ask every worker for its host; return None where adding up in one go is as good.

        That is on one host, and where every worker has its own.
        """
        digest = hashlib.blake2b(host_identity().encode(), digest_size=_DIGEST_BYTES).digest()
        mine = torch.frombuffer(bytearray(digest), dtype=torch.uint8)
        found = [torch.empty_like(mine) for _ in range(world_size)]
        distributed.all_gather(found, mine)
        hosts = [bytes(each.numpy()) for each in found]
        return HostGroups(hosts, rank, timeout) if 1 < len(set(hosts)) < world_size else None

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all workers, the same bits in all of them."""
        if self._several:
            _all(
                distributed.reduce(tensor, self._first, group=self._host, async_op=True)
                for tensor in tensors
            )
        if self._leads:
            _all(
                distributed.all_reduce(tensor, group=self._across, async_op=True)
                for tensor in tensors
            )
        if self._several:
            _all(
                distributed.broadcast(tensor, self._first, group=self._host, async_op=True)
                for tensor in tensors
            )


def _all(works: Iterable[Any]) -> None:
    """Start all of `works`, then wait for each."""
    for work in list(works):
        work.wait()
