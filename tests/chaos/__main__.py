"""Faults of real processes, and whether every push still counts once.

    python -m tests.chaos --seeds 20     # seeds 0 to 19
    python -m tests.chaos --seed 7       # the faults of one seed, in their order

As root, also links of the network are cut off and the coordinator's disk is filled, so the faults
of a seed are others.

Logs of the processes stay in build/chaos/SEED for a run that failed.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from tests.chaos.harness import run
from tests.chaos.machine import problem


def main() -> None:
    """Run the seeds that the command line names."""
    parser = argparse.ArgumentParser("python -m tests.chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, help="run this one only")
    parser.add_argument("--seeds", type=int, default=20, help="run 0 to SEEDS - 1 (default: 20)")
    parser.add_argument("--faults", type=int, default=20, help="a seed (default: 20)")
    parser.add_argument("--out", type=Path, default=Path("build/chaos"), metavar="DIR")
    arguments = parser.parse_args()
    seeds = range(arguments.seeds) if arguments.seed is None else [arguments.seed]
    why = problem()
    if why:
        print(f"links and disks are left out: {why}", flush=True)
    for seed in seeds:
        folder = arguments.out / str(seed)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        print(f"== seed {seed}", flush=True)
        run(seed, arguments.faults, folder, lambda line: print(line, flush=True), machine=not why)
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
