"""`embery run`: real servers and workers, and the promises of several of them.

What is about the engine is run by each; Ray's where it is installed, else the test says so.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

TRAIN = '''
"""Trains a small model; prints its history and a digest of all it learnt."""
import hashlib, json, sys
import numpy as np
import torch
from torch import nn
import embery as em
from embery.data.synthetic import Synthetic

mode = {"sync": em.Sync(), "hybrid": em.Hybrid(staleness=2), "async": em.Async()}[sys.argv[1]]
torch.manual_seed(0)
data = Synthetic(3_030, batch_size=256, shuffle=True)
valid = Synthetic(1_000, batch_size=300, offset=3_030)
optimizers = [em.optim.Adagrad(lr=0.1), em.optim.Adam(lr=0.01), em.optim.SGD(lr=0.1)]


class Model(nn.Module):
    def __init__(self, store):
        super().__init__()
        names = data.schema.keys
        self.emb = em.EmbeddingBagCollection(
            tables=[
                em.Table(name, dim=4, optimizer=optimizers[i % 3], initializer=em.init.Normal(0.05))
                for i, name in enumerate(names)
            ],
            features=[em.Feature(name, table=name) for name in names],
            store=store,
        )
        self.norm = nn.BatchNorm1d(len(data.schema.dense))
        self.top = nn.Linear(4 * len(names) + len(data.schema.dense), 1)

    def forward(self, batch):
        rows = self.emb(batch.sparse).values()
        return self.top(torch.cat([rows, self.norm(batch.dense)], 1))[:, 0]


with em.connect() as store:
    model = Model(store)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    loss = nn.functional.binary_cross_entropy_with_logits
    trainer = em.Trainer(model, loss, optimizer, store=store, mode=mode)
    result = trainer.fit(data, epochs=2, valid=valid)
    trainer.evaluate(valid)  # Collective: all pushes are in after it.
    digest = hashlib.sha256()
    for batch in data:
        keys = batch.sparse.to_dict()
        for name in data.schema.keys:
            digest.update(store.pull(name, keys[name].values(), train=False).tobytes())
    for value in model.state_dict().values():
        digest.update(value.numpy().tobytes())
    print("RESULT", json.dumps([result.history, result.steps, result.samples, digest.hexdigest()]))
'''


def embery_run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "embery.cli.main", "run", *map(str, arguments)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def results(done: subprocess.CompletedProcess[str]) -> list[Any]:
    """Return what the workers printed; all have to end well."""
    assert done.returncode == 0, done.stdout + done.stderr
    return [
        json.loads(line.partition("RESULT")[2])
        for line in done.stdout.splitlines()
        if "RESULT" in line
    ]


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "train.py"
    path.write_text(TRAIN)
    return path


@pytest.fixture(params=["local", "ray"])
def engine(request: pytest.FixtureRequest) -> str:
    """Return where roles run."""
    if request.param == "ray" and find_spec("ray") is None:
        pytest.skip("ray is not installed here: pip install ray==2.60.0")
    return str(request.param)


@pytest.mark.timeout(300)
def test_one_worker_learns_the_bits_of_the_embedded_store(script: Path) -> None:
    alone = subprocess.run(
        [sys.executable, script, "sync"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    (expected,) = results(alone)
    assert results(embery_run("--ps", 2, script, "sync", cwd=script.parent)) == [expected]


@pytest.mark.timeout(600)
def test_two_workers_learn_the_same_bits_with_any_number_of_servers(script: Path) -> None:
    found = [
        results(embery_run("--ps", servers, "--workers", 2, script, "sync", cwd=script.parent))
        for servers in (1, 2, 3)
    ]
    for of_run in found:
        assert of_run == found[0]
        assert of_run[0] == of_run[1]
    history, steps, samples, _ = found[0][0]
    assert (steps, samples) == (24, 6060)
    assert history[1]["train/loss"] < history[0]["train/loss"]


@pytest.mark.timeout(300)
def test_hybrid_workers_agree_on_all_but_the_rows_they_read(script: Path) -> None:
    one, two = results(embery_run("--ps", 2, "--workers", 2, script, "hybrid", cwd=script.parent))
    assert one == two
    assert one[0][1]["train/loss"] < one[0][0]["train/loss"]


RESUMED = TRAIN.replace(
    "valid=valid)\n",
    "valid=valid, checkpoint=sys.argv[2], checkpoint_every=5, max_steps=int(sys.argv[3]), "
    "resume=True, patience=1, restore_best=True)\n",
)
# Kills a server once, in the middle of training.
UNLUCKY = RESUMED.replace(
    "    loss = nn.functional.binary_cross_entropy_with_logits\n",
    """
    losses = []
    def loss(output, label):
        losses.append(1)
        if len(losses) == 12 and os.environ["EMBERY_RESTARTS"] == "0":
            server = f"ps\\0--coordinator\\0{store.url}".encode()
            found = [p for p in os.listdir("/proc") if p.isdigit()
                     and server in open(f"/proc/{p}/cmdline", "rb").read()]
            os.kill(int(found[0]), signal.SIGKILL)
        return nn.functional.binary_cross_entropy_with_logits(output, label)
""",
).replace("import hashlib, json, sys", "import hashlib, json, os, signal, sys")


def in_eight_bits(program: str) -> str:
    """Return a training script whose gradients of rows travel as int8, with error feedback."""
    exact = "initializer=em.init.Normal(0.05)"
    assert exact in program
    return program.replace(exact, f"{exact}, wire=em.Wire(grads='int8')")


# A matrix that is worth its columns, and residuals and columns that must go on.
LOW_RANK = RESUMED.replace("mode=mode)", "mode=mode, dense_wire=em.PowerSGD(rank=1))").replace(
    "self.top = nn.Linear(4 * len(names) + len(data.schema.dense), 1)",
    "self.top = nn.Sequential("
    "nn.Linear(4 * len(names) + len(data.schema.dense), 16), nn.ReLU(), nn.Linear(16, 1))",
)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("with_wire", [str, in_eight_bits], ids=["float32", "int8"])
def test_a_run_that_lost_a_server_starts_again_and_ends_like_an_undisturbed_one(
    tmp_path: Path, with_wire: Callable[[str], str]
) -> None:
    (tmp_path / "train.py").write_text(with_wire(UNLUCKY))
    (tmp_path / "calm.py").write_text(with_wire(RESUMED))
    options = ("--ps", 2, "--restarts", 1)
    done = embery_run(*options, "train.py", "sync", "saved", 1_000, cwd=tmp_path)
    calm = embery_run(*options, "calm.py", "sync", "calm", 1_000, cwd=tmp_path)
    assert "was ended by SIGKILL" in done.stderr
    assert "the job starts again, 1 of 1 times" in done.stderr
    ((history, *rest),), ((expected, *others),) = results(done), results(calm)
    assert rest == others
    for one, other in zip(history, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-12)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "program",
    [RESUMED, LOW_RANK, in_eight_bits(RESUMED)],
    ids=["float32", "low_rank", "int8"],
)
def test_a_resumed_run_of_two_workers_ends_like_one_that_was_not_interrupted(
    tmp_path: Path, program: str
) -> None:
    (tmp_path / "train.py").write_text(program)

    def train(servers: int, folder: str, steps: int) -> Any:
        options = ("--ps", servers, "--workers", 2, "train.py", "sync", folder, steps)
        one, two = results(embery_run(*options, cwd=tmp_path))
        assert one == two
        return one

    whole = train(2, "whole", 1_000)
    assert train(2, "parts", 15)[1] == 15
    resumed = train(3, "parts", 1_000)
    # Metrics of the epoch under way were summed up in another order.
    for expected, found in zip(whole[0], resumed[0], strict=True):
        assert found == pytest.approx(expected, rel=1e-12)
    assert resumed[1:] == whole[1:]


MANUAL = (
    TRAIN.partition("    trainer = em.Trainer")[0]
    + """
    from embery.worker.group import WorkerGroup
    from embery.worker.together import joint_pushes

    group = WorkerGroup.of_run()
    group.begin_alike(model)
    store.join_group(group.rank, group.world_size)
    losses = []
    for epoch in range(2):
        batches = data.batches(epoch=epoch)
        for share in em.prefetch(group.shares(batches), model.emb):
            optimizer.zero_grad()
            value = loss(model(share), share.label) * share.weight
            value.backward()
            losses += group.reduce(optimizer, [value.item()])
            optimizer.step()
            for push in joint_pushes([model.emb]):
                push.apply()
    print("RESULT", json.dumps(losses))
"""
)


@pytest.mark.timeout(300)
def test_a_loop_of_ones_own_takes_the_steps_of_the_trainer(script: Path, tmp_path: Path) -> None:
    (tmp_path / "loop.py").write_text(MANUAL)
    one, two = results(embery_run("--workers", 2, "loop.py", "sync", cwd=tmp_path))
    assert one == two
    trained = results(embery_run("--workers", 2, script, "sync", cwd=tmp_path))[0]
    by_epoch = [sum(one[:12]) / 12, sum(one[12:]) / 12]
    assert by_epoch == [record["train/loss"] for record in trained[0]]


ALONE_THEN_TOGETHER = """
import numpy as np, embery as em
from embery.worker.group import WorkerGroup

group = WorkerGroup.of_run()
ones = np.ones((1, 2), np.float32)
with em.connect() as store:
    sgd, zeros = em.optim.SGD(lr=1.0), em.init.Zeros()
    store.create_table(em.Table("item", dim=2, optimizer=sgd, initializer=zeros))
    group.barrier()
    for _ in range(group.rank):
        store.push("item", [7], ones)
    group.barrier()
    store.join_group(group.rank, group.world_size)
    for _ in range(3):
        store.push("item", [7], ones)
    print("RESULT", store.pull("item", [7], train=False).tolist())
"""


@pytest.mark.timeout(180)
def test_workers_that_pushed_alone_can_push_together(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(ALONE_THEN_TOGETHER)
    done = embery_run("--ps", 2, "--workers", 3, "train.py", cwd=tmp_path)
    # Three pushes alone, then three rounds of three: gradients of a round are summed.
    assert results(done) == [[[-12.0, -12.0]]] * 3


FAILING = """
import os, embery as em
with em.connect() as store:
    store.create_table(em.Table("item", dim=4))
    print("pids", os.getpid(), flush=True)
    if os.environ["EMBERY_RANK"] == "1":
        raise ValueError("no such column: price")
    from embery.worker.group import WorkerGroup
    WorkerGroup.of_run().barrier()
"""


def wait_gone(pid: int) -> None:
    try:
        ends = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([ends], [], [], 20)[0], f"process {pid} is still there"
    finally:
        os.close(ends)


@pytest.mark.timeout(300)
def test_a_worker_that_raises_ends_the_run_and_leaves_nothing(tmp_path: Path, engine: str) -> None:
    (tmp_path / "train.py").write_text(FAILING)
    options = ("--engine", engine, "--workers", 2, "--log-dir", "logs")
    done = embery_run(*options, "train.py", cwd=tmp_path)
    assert done.returncode == 1
    assert "embery: error: worker 1 exited with code 1; its last lines:" in done.stderr
    assert done.stderr.endswith("    ValueError: no such column: price\n")
    assert "ValueError: no such column: price" in (tmp_path / "logs" / "worker-1.log").read_text()
    for line in done.stdout.splitlines():
        if "| pids" in line:
            wait_gone(int(line.split()[-1]))
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == [
        "coordinator.log", "ps-0.log", "worker-0.log", "worker-1.log",
    ]  # fmt: skip


INTERRUPTED = TRAIN.replace(
    "fit(data, epochs=2, valid=valid)", "fit(data, epochs=10_000, checkpoint='saved')"
).replace("        rows = self.emb", "        print('forward')\n        rows = self.emb")


@pytest.mark.timeout(300)
def test_ctrl_c_saves_a_checkpoint_and_ends_all(tmp_path: Path, engine: str) -> None:
    (tmp_path / "train.py").write_text(INTERRUPTED)
    options = ("--engine", engine, "--ps", 2, "--workers", 2)
    with subprocess.Popen(
        command(*options, "train.py", "sync"),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            seen: list[str] = []
            for line in process.stdout:
                seen.append(line)
                if "forward" in line:
                    break
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 1, "".join(seen) + out
    assert out.endswith("embery: error: interrupted\n")
    assert list((tmp_path / "saved").glob("checkpoint-*")), out
    # Both ended after the same step.
    assert out.count("]: KeyboardInterrupt\n") == 2
    assert sum("forward" in line for line in [*seen, *out.splitlines()]) % 2 == 0


WAITING = """
import os, signal, embery as em
with em.connect() as store:
    print("pids", os.getpid(), flush=True)
    signal.pause()
"""


@pytest.mark.timeout(300)
def test_a_launcher_that_is_killed_leaves_nothing(tmp_path: Path, engine: str) -> None:
    (tmp_path / "train.py").write_text(WAITING)
    with subprocess.Popen(
        command("--engine", engine, "--workers", 2, "train.py"),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            lines = (line for line in process.stdout if "| pids" in line)
            found = [int(next(lines).split()[-1]) for _ in range(2)]
        finally:
            process.kill()
        for pid in found:
            wait_gone(pid)


@pytest.fixture
def ray_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Run a Ray cluster of two nodes; yield what the environment must say of it."""
    pytest.importorskip("ray", reason="ray is not installed here: pip install ray==2.60.0")
    from ray.cluster_utils import Cluster  # noqa: PLC0415  only where it is installed

    token = tmp_path / "token"
    token.write_text("a token of the test, of bytes enough")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # Of the nodes, which have no launcher.
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    try:
        cluster.add_node(num_cpus=2)
        yield {"RAY_ADDRESS": cluster.address, "EMBERY_TOKEN_FILE": str(token)}
    finally:
        cluster.shutdown()


@pytest.mark.timeout(600)
def test_roles_on_the_nodes_of_a_ray_cluster_learn_the_same_bits(
    script: Path, ray_nodes: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--ps", 2, "--workers", 2, script, "sync")
    expected = results(embery_run(*options, cwd=script.parent))
    for name, value in ray_nodes.items():
        monkeypatch.setenv(name, value)
    done = embery_run("--engine", "ray", *options, cwd=script.parent)
    assert results(done) == expected
    # Roles listen where other machines reach them, so the token was asked for and shown.
    assert "ready at embery://127.0.0.1" not in done.stdout
