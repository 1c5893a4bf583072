"""What is compared with what: cases, their contenders, and the targets they are held to."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TypeAlias

from benchmarks import workloads

MILLION = 1_000_000
# Loads on an inference server: how requests travel, samples of each, clients at once.
PROTOCOLS = ("json", "grpc")
BATCHES = (1, 16, 128)
CONNECTIONS = (1, 16)

# The value of each round, by contender and metric.
Values: TypeAlias = Mapping[tuple[str, str], Sequence[float]]


@dataclass(frozen=True, slots=True)
class Contender:
    """One command that prints figures; the rounds of a case run its contenders in turn."""

    name: str
    command: tuple[str, ...]
    is_peer: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a target came out, in words for a table."""

    what: str
    found: str
    wanted: str
    met: bool


@dataclass(frozen=True, slots=True)
class Ratio:
    """`ours` is to reach `least` times `theirs`, in the medians over all rounds."""

    ours: str
    theirs: str
    metric: str
    least: float

    def judge(self, values: Values) -> Verdict:
        """Return the ratio of medians, with the extremes of the rounds' own ratios."""
        ours, theirs = values[self.ours, self.metric], values[self.theirs, self.metric]
        rounds = [a / b for a, b in zip(ours, theirs, strict=True)]
        found = median(ours) / median(theirs)
        return Verdict(
            f"{self.metric}: {self.ours} / {self.theirs}",
            f"{found:.2f} ({min(rounds):.2f} to {max(rounds):.2f})",
            f">= {self.least:g}",
            found >= self.least,
        )


@dataclass(frozen=True, slots=True)
class Most:
    """The median of `metric` is to be at most `most`."""

    ours: str
    metric: str
    most: float

    def judge(self, values: Values) -> Verdict:
        """Return the median and the extremes of the rounds."""
        ours = values[self.ours, self.metric]
        found = f"{median(ours):.1f} ({min(ours):.1f} to {max(ours):.1f})"
        what = f"{self.metric}: {self.ours}"
        return Verdict(what, found, f"<= {self.most:g}", median(ours) <= self.most)


@dataclass(frozen=True, slots=True)
class Flat:
    """The slowest contender is to reach `least` times the fastest."""

    contenders: tuple[str, ...]
    metric: str
    least: float

    def judge(self, values: Values) -> Verdict:
        """Return the lowest median over the highest."""
        medians = {name: median(values[name, self.metric]) for name in self.contenders}
        slowest, fastest = (
            min(medians, key=medians.__getitem__),
            max(medians, key=medians.__getitem__),
        )
        found = medians[slowest] / medians[fastest]
        what = f"{self.metric}: {slowest} / {fastest}"
        return Verdict(what, f"{found:.2f}", f">= {self.least:g}", found >= self.least)


@dataclass(frozen=True, slots=True)
class Case:
    """Contenders on the same work, and what is asked of them."""

    title: str
    contenders: tuple[Contender, ...]
    targets: tuple[Ratio | Most | Flat, ...]


@dataclass(frozen=True, slots=True)
class Setting:
    """Where things are, and how long a run is."""

    data: Path
    peers: Path | None
    peers_python: Path | None
    tensorflow_python: Path | None
    limit: Path
    steps: int
    threads: int
    triton_python: Path | None = None
    mlserver_python: Path | None = None


def ours(name: str, module: str, setting: Setting, **options: object) -> Contender:
    """Return a contender that runs one of the scripts of this folder."""
    command = [sys.executable, "-m", f"benchmarks.{module}", "--threads", str(setting.threads)]
    for option, value in options.items():
        command += [f"--{option.replace('_', '-')}", str(value)]
    return Contender(name, tuple(command))


def peer(name: str, script: str, setting: Setting, *options: object) -> tuple[Contender, ...]:
    """Return a contender that runs a peer's script; nothing where there are no peers."""
    if setting.peers is None or setting.peers_python is None:
        return ()
    command = [str(setting.peers_python), str(setting.peers / script)]
    command += ["--threads", str(setting.threads), "--steps", str(setting.steps)]
    return (Contender(name, (*command, *map(str, options)), is_peer=True),)


def w1_case(setting: Setting, n_rows: int) -> Case:
    """Return W1 against FBGEMM's row-wise Adagrad."""
    least = {"lookup_rows_per_s": 1.5, "update_rows_per_s": 1.0, "cycle_rows_per_s": 1.2}
    theirs = peer(
        "fbgemm_rowwise", "w1_torch.py", setting, "--peer", "fbgemm_rowwise", "--rows", n_rows
    )
    own = ours("embery", "w1", setting, rows=n_rows, steps=setting.steps, data=setting.data)
    targets = [Ratio("embery", rival.name, m, x) for rival in theirs for m, x in least.items()]
    return Case(f"W1, {n_rows:,} rows x dim 64", (own, *theirs), tuple(targets))


def w2_case(setting: Setting) -> Case:
    """Return W2 with look-ahead on and off against torch and torchrec."""
    rivals = {"torch": ("adagrad", 1.0), "torchrec": ("rowwise_adagrad", 1.15)}
    contenders: list[Contender] = []
    targets: list[Ratio] = []
    for rival, (optimizer, least) in rivals.items():
        theirs = peer(rival, "w2_torch.py", setting, "--peer", rival)
        for depth, suffix in ((0, ""), (4, "_look_ahead")):
            name = f"embery_{optimizer}{suffix}"
            contenders.append(
                ours(
                    name, "w2", setting, optimizer=optimizer, look_ahead=depth,
                    steps=setting.steps, data=setting.data,
                )
            )  # fmt: skip
            targets += [Ratio(name, x.name, "train_samples_per_s", least) for x in theirs]
        contenders += theirs
    return Case("W2, 26 tables x 100,000 rows x dim 16", tuple(contenders), tuple(targets))


def cluster_case(setting: Setting) -> Case:
    """Return W1 with a server in another process, against our embedded store and TensorFlow's."""
    common = {"rows": MILLION, "steps": setting.steps, "data": setting.data}
    remote = [
        ours(f"embery_{transport}", "cluster_w1", setting, transport=transport, **common)
        for transport in ("tcp", "shm")
    ]
    targets: list[Ratio | Most | Flat] = [
        Ratio("embery_shm", "embery_embedded", "cycle_rows_per_s", 0.75),
        Most("embery_tcp", "cpu_us_per_row", 0.35),
    ]
    theirs: tuple[Contender, ...] = ()
    if setting.peers is not None and setting.tensorflow_python is not None:
        command = [setting.tensorflow_python, setting.peers / "tf_ps.py", "--w", "w1"]
        command += ["--ps", 1, "--workers", 1, "--rows", MILLION, "--steps", setting.steps]
        theirs = (Contender("tensorflow_ps", tuple(map(str, command)), is_peer=True),)
        targets.append(Ratio("embery_tcp", "tensorflow_ps", "cycle_rows_per_s", 2.5))
    embedded = ours("embery_embedded", "w1", setting, **common)
    title = "W1 with a server in another process, 1,000,000 rows x dim 64"
    return Case(title, (embedded, *remote, *theirs), tuple(targets))


def cluster_w2_case(setting: Setting) -> Case:
    """Return W2 with a server in another process against TensorFlow's and torchrec's processes."""
    contenders = [
        ours(
            f"embery_{workers}_workers", "cluster_w2", setting, workers=workers,
            steps=setting.steps, data=setting.data,
        )
        for workers in (1, 2)
    ]  # fmt: skip
    targets: list[Ratio] = []
    if setting.peers is not None and setting.tensorflow_python is not None:
        command = [setting.tensorflow_python, setting.peers / "tf_ps.py", "--w", "w2"]
        command += ["--ps", 1, "--workers", 1, "--steps", setting.steps]
        contenders.append(Contender("tensorflow_ps", tuple(map(str, command)), is_peer=True))
        targets.append(Ratio("embery_1_workers", "tensorflow_ps", "train_samples_per_s", 1.2))
    theirs = peer(
        "torchrec_2_processes", "w2_torch.py", setting, "--peer", "torchrec", "--procs", 2
    )
    targets += [Ratio("embery_2_workers", x.name, "train_samples_per_s", 1.0) for x in theirs]
    title = "W2 with a server in another process, 26 tables x 100,000 rows x dim 16"
    return Case(title, (*contenders, *theirs), tuple(targets))


def gather_case(setting: Setting, n_rows: int, dim: int) -> Case:
    """Return pulls of distinct rows against the plain gather, with huge pages and without."""
    keys = workloads.distinct_keys(setting.data, n_rows)
    shape = (n_rows, dim, setting.threads, setting.steps)
    limits = [
        Contender(
            f"limit_{pages}_pages",
            (str(setting.limit), *map(str, (*shape, pages, workloads.W1_KEYS, keys))),
        )
        for pages in ("small", "huge")
    ]
    own = ours(
        "embery", "gather", setting, rows=n_rows, dim=dim, steps=setting.steps, data=setting.data
    )
    targets = tuple(Ratio("embery", limit.name, "gather_rows_per_s", 0.8) for limit in limits)
    return Case(f"Gather, {n_rows:,} rows x dim {dim}", (own, *limits), targets)


def flat_case(setting: Setting, script: str) -> Case:
    """Return tables of growing size against each other, on the keys of W1 or on distinct ones."""
    title, metrics = {
        "w1": ("keys of W1", ("lookup_rows_per_s", "update_rows_per_s", "cycle_rows_per_s")),
        "gather": ("distinct keys", ("gather_rows_per_s", "scatter_rows_per_s")),
    }[script]
    sizes = {f"{millions}M": millions * MILLION for millions in (1, 3, 10, 30)}
    contenders = tuple(
        ours(name, script, setting, rows=n, dim=16, steps=setting.steps, data=setting.data)
        for name, n in sizes.items()
    )
    targets = tuple(Flat(tuple(sizes), metric, 0.75) for metric in metrics)
    return Case(f"Flat from 1M to 30M rows x dim 16, {title}", contenders, targets)


def memory_case(setting: Setting, dim: int) -> Case:
    """Return the bytes a row costs beyond its values and state."""
    own = ours("embery", "memory", setting, rows=10 * MILLION, dim=dim)
    metrics = ("resident_overhead_bytes_per_row", "reported_overhead_bytes_per_row")
    targets = tuple(Most("embery", metric, 32.0) for metric in metrics)
    return Case(f"Memory, 10,000,000 rows x dim {dim}", (own,), targets)


def idle_case(setting: Setting) -> Case:
    """Return what the processes of a cluster use while nothing is to be done."""
    names = ("coordinator", "ps_0", "ps_1", "worker_connected", "worker_pushing")
    targets = tuple(Most("embery", f"{name}_percent", 1.0) for name in names)
    return Case("Idle, a cluster of two servers", (ours("embery", "idle", setting),), targets)


def serving_case(setting: Setting) -> Case:
    """Return `embery serve` on one core against Triton and MLServer with the same model."""
    bundle = setting.data / "serving" / "bundle-00000001"
    pythons = {
        "embery": Path(sys.executable),
        "triton": setting.triton_python,
        "mlserver": setting.mlserver_python,
    }
    command = (sys.executable, "-m", "benchmarks.serving", "run", "--bundle", str(bundle))
    contenders = [
        Contender(name, (*command, "--server", name, "--python", str(python)))
        for name, python in pythons.items()
        if python is not None
    ]
    targets = [
        Ratio("embery", rival.name, f"requests_per_s {workload_of(protocol, samples, n)}", 1.0)
        for rival in contenders[1:]
        for protocol in PROTOCOLS
        for samples in BATCHES
        for n in CONNECTIONS
    ]
    return Case("Serving on one core, 26 tables and two MLPs", tuple(contenders), tuple(targets))


def workload_of(protocol: str, samples: int, connections: int) -> str:
    """Return how a load on an inference server is named in the figures."""
    return f"{protocol} batch={samples} connections={connections}"


SUITES: dict[str, Callable[[Setting], list[Case]]] = {
    "w1": lambda s: [w1_case(s, n) for n in (MILLION, 10 * MILLION)],
    "w2": lambda s: [w2_case(s)],
    "cluster": lambda s: [cluster_case(s), cluster_w2_case(s)],
    "gather": lambda s: [
        gather_case(s, n, dim) for n in (MILLION, 10 * MILLION) for dim in (16, 64)
    ],
    "flat": lambda s: [flat_case(s, script) for script in ("w1", "gather")],
    "memory": lambda s: [memory_case(s, dim) for dim in (16, 64)],
    "idle": lambda s: [idle_case(s)],
    "serving": lambda s: [serving_case(s)],
    "short": lambda s: [w1_case(s, MILLION), w2_case(s), gather_case(s, MILLION, 16)],
}
