"""Workers on several hosts: what they add up crosses the network once a host."""

from __future__ import annotations

import json
from typing import Any

import pytest

# Sums of whole numbers are exact in any order. Counts the bytes that a worker gives all_reduce.
PROGRAM = """
    import json, torch
    from torch import distributed
    from embery.worker.group import WorkerGroup

    across = [0]
    all_reduce = distributed.all_reduce

    def counted(tensor, group=None, **options):
        across[0] += tensor.nbytes
        return all_reduce(tensor, group=group, **options)

    distributed.all_reduce = counted
    group = WorkerGroup.of_run()
    whole = torch.arange(1000.0) * (group.rank + 1)
    group.add_up(whole)
    assert torch.equal(whole, torch.arange(1000.0) * sum(range(1, group.world_size + 1)))
    parts = torch.randn(777, generator=torch.Generator().manual_seed(group.rank))
    count = torch.ones(1, dtype=torch.float64)
    group.add_up(parts, count)
    assert group.broadcast_text(f"from {group.rank}") == "from 0"
    print(json.dumps([across[0], count.item(), parts.view(torch.int32).tolist()]))
"""
BYTES = 1000 * 4 + 777 * 4 + 8


@pytest.mark.parametrize(
    ("hosts", "across"),
    [
        ("aabb", [BYTES, 0, BYTES, 0]),
        # Uneven, out of order, and a host with one worker.
        ("abacb", [BYTES, BYTES, 0, BYTES, 0]),
        # Of no use: every worker sums with every other.
        ("aaa", [BYTES] * 3),
        ("abc", [BYTES] * 3),
    ],
)
def test_only_one_worker_a_host_adds_up_with_other_hosts(
    run_workers: Any, hosts: str, across: list[int]
) -> None:
    found = run_workers(PROGRAM, world=len(hosts), hosts=hosts)
    for done in found:
        assert done.returncode == 0, done.stderr
    results = [json.loads(done.stdout) for done in found]
    assert [sent for sent, _, _ in results] == across
    assert {count for _, count, _ in results} == {len(hosts)}
    # The same bits in all.
    assert all(bits == results[0][2] for _, _, bits in results)
