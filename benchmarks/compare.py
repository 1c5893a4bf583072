"""Runs contenders in turn on the same work, round after round, and writes what came out.

    python -m benchmarks.compare w1 w2 --peers DIR --peers-python PATH --out build/bench/run1

Two systems measured one after the other on a shared machine differ by whatever else the machine
did meanwhile. Here every round runs all contenders of a case (A B A B ...), so a slow minute meets
all of them; the figures are medians over the rounds, and each run records how much of the
processors other processes, or the hypervisor, took meanwhile. Writes raw.jsonl and report.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import workloads
from benchmarks.cases import SUITES, Case, Contender, Setting
from benchmarks.measure import log
from benchmarks.report import report

ROOT = Path(__file__).resolve().parent.parent
RUN_TIMEOUT_S = 1800.0


@dataclass(frozen=True, slots=True)
class Processors:
    """Seconds of processor time since the machine started, over all processors."""

    total_s: float
    busy_s: float
    stolen_s: float
    ours_s: float

    @staticmethod
    def now() -> Processors:
        """Return the counters, with what this process and its ended children used of them."""
        first = Path("/proc/stat").read_text().splitlines()[0]
        user, nice, system, idle, wait, irq, softirq, stolen = map(int, first.split()[1:9])
        hertz = os.sysconf("SC_CLK_TCK")
        busy = user + nice + system + irq + softirq
        own = os.times()
        return Processors(
            total_s=(busy + idle + wait + stolen) / hertz,
            busy_s=busy / hertz,
            stolen_s=stolen / hertz,
            ours_s=own.user + own.system + own.children_user + own.children_system,
        )

    def shares_since(self, before: Processors) -> dict[str, float]:
        """Return which shares of all processors other processes and the hypervisor took."""
        total_s = max(self.total_s - before.total_s, 1e-9)
        foreign_s = (self.busy_s - before.busy_s) - (self.ours_s - before.ours_s)
        return {
            "foreign_share": round(max(foreign_s, 0.0) / total_s, 3),
            "stolen_share": round((self.stolen_s - before.stolen_s) / total_s, 3),
        }


def run(contender: Contender, setting: Setting) -> list[dict[str, Any]]:
    """Run one contender once; return its figures, each with the shares that others took."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        # The peers' scripts keep their arrays and append their figures here.
        "PEERS_DATA": str(setting.data),
        "PEERS_OUT": str(setting.data / "peers.jsonl"),
    }
    if contender.is_peer:
        environment.pop("PYTHONPATH")
    before = Processors.now()
    done = subprocess.run(
        contender.command,
        capture_output=True,
        text=True,
        env=environment,
        cwd=setting.data,
        timeout=RUN_TIMEOUT_S,
        check=False,
    )
    shares = Processors.now().shares_since(before)
    if done.returncode != 0:
        raise SystemExit(
            f"compare: {contender.name} ended with {done.returncode}: "
            f"{' '.join(contender.command)}\n{done.stderr[-2000:]}"
        )
    figures = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return [{"contender": contender.name, **figure, **shares} for figure in figures]


def run_case(case: Case, setting: Setting, rounds: int, raw: Path) -> list[dict[str, Any]]:
    """Run all rounds of a case, appending every figure to `raw` as it comes."""
    figures: list[dict[str, Any]] = []
    for number in range(rounds):
        for contender in case.contenders:
            started = time.monotonic()
            found = [{"case": case.title, "round": number, **f} for f in run(contender, setting)]
            with raw.open("a") as lines:
                lines.writelines(json.dumps(figure) + "\n" for figure in found)
            figures += found
            log(
                f"{case.title}: round {number + 1}/{rounds} {contender.name} "
                f"{time.monotonic() - started:.0f} s, others took "
                f"{found[0]['foreign_share']:.0%} + {found[0]['stolen_share']:.0%}"
            )
    return figures


def build_limit(folder: Path) -> Path:
    """Build the plain gather and return its path."""
    build = folder / "limit"
    source = Path(__file__).resolve().parent
    for command in (
        ["cmake", "-S", str(source), "-B", str(build), "-DCMAKE_BUILD_TYPE=Release"],
        ["cmake", "--build", str(build)],
    ):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return build / "gather_limit"


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """Return the options in `argv`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("suites", nargs="+", choices=[*SUITES, "all"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=25, help="measured steps of one run")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peers", type=Path, help="folder of w1_torch.py and w2_torch.py")
    parser.add_argument(
        "--peers-python", type=Path, help="interpreter that has the peers installed"
    )
    parser.add_argument(
        "--tensorflow-python", type=Path, help="interpreter that has TensorFlow, for tf_ps.py"
    )
    parser.add_argument(
        "--triton-python", type=Path, help="interpreter that has nvidia-pytriton, for serving"
    )
    parser.add_argument(
        "--mlserver-python", type=Path, help="interpreter that has MLServer, for serving"
    )
    parser.add_argument("--data", type=Path, default=workloads.default_folder())
    parser.add_argument("--out", type=Path, help="folder for raw.jsonl and report.md")
    args = parser.parse_args(argv)
    pythons = (args.peers_python, args.tensorflow_python, args.triton_python, args.mlserver_python)
    for path in (args.peers, *pythons):
        if path is not None and not path.exists():
            parser.error(f"{path} does not exist")
    return args


def main(argv: Sequence[str]) -> None:
    """Run the suites named in `argv`, and print and keep the report."""
    args = parse_args(argv)
    data = args.data.resolve()
    data.mkdir(parents=True, exist_ok=True)
    out = (args.out or data / time.strftime("run-%Y%m%d-%H%M%S")).resolve()
    out.mkdir(parents=True, exist_ok=True)
    if args.peers is None or args.peers_python is None:
        log("peers: skipped, as --peers and --peers-python do not name them")
    setting = Setting(
        data=data,
        peers=args.peers and args.peers.resolve(),
        # Not resolved: the link is what makes an interpreter that of its environment.
        peers_python=args.peers_python and args.peers_python.absolute(),
        tensorflow_python=args.tensorflow_python and args.tensorflow_python.absolute(),
        limit=build_limit(data),
        steps=args.steps,
        threads=args.threads,
        triton_python=args.triton_python and args.triton_python.absolute(),
        mlserver_python=args.mlserver_python and args.mlserver_python.absolute(),
    )
    chosen = [s for s in SUITES if s != "short"] if "all" in args.suites else args.suites
    cases = [case for suite in chosen for case in SUITES[suite](setting)]
    results = [(case, run_case(case, setting, args.rounds, out / "raw.jsonl")) for case in cases]
    text = report(results, setting, rounds=args.rounds)
    (out / "report.md").write_text(text)
    print(text)
    log(f"written to {out}")


if __name__ == "__main__":
    main(sys.argv[1:])
