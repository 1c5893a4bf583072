"""Requests a second and their times: `embery serve` on one core, or a peer with the same model.

    python -m benchmarks.serving run --server embery --bundle build/bench/serving/bundle-00000001

The model is W2's: 26 tables of 100,000 rows of dim 16, 13 numbers, and two MLPs; all servers look
rows up with the same library and compute the dense part with ONNX Runtime in one thread, so what
differs is the server. It is pinned to one core, the clients to the others. Before the clock starts,
scores are compared with those of the bundle.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import workloads
from benchmarks.cases import BATCHES, CONNECTIONS, PROTOCOLS, workload_of
from benchmarks.measure import emit, log
from benchmarks.serving_load import Arrays, Load, connect, measure
from embery.serving.bundle import Bundle

ROOT = Path(__file__).resolve().parent.parent
LOCAL = urllib.request.build_opener(urllib.request.ProxyHandler({}))
START_S = 120.0
REQUESTS = 32
TOLERANCE = 1e-5
MODEL = "w2"


@dataclass(frozen=True, slots=True)
class Ports:
    """Free ports of loopback."""

    http: int
    grpc: int
    metrics: int

    @staticmethod
    def free() -> Ports:
        """Return three that nobody listens at now."""
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
        found = Ports(*(int(one.getsockname()[1]) for one in sockets))
        for one in sockets:
            one.close()
        return found


# -- Servers --------------------------------------------------------------------------------------


def embery_command(bundle: Path, ports: Ports, folder: Path, python: Path) -> list[str]:
    """Return what starts `embery serve`."""
    command = [str(python), "-m", "embery.cli.main", "serve", str(bundle), "--name", MODEL]
    return [*command, "--port", str(ports.http), "--grpc-port", str(ports.grpc)]


def mlserver_command(bundle: Path, ports: Ports, folder: Path, python: Path) -> list[str]:
    """Return what starts MLServer with the runtime of this folder."""
    settings = {
        "http_port": ports.http, "grpc_port": ports.grpc, "metrics_port": ports.metrics,
        "host": "127.0.0.1", "parallel_workers": 0, "debug": False, "use_structured_logging": False,
        "logging_settings": None,
    }  # fmt: skip
    model = {
        "name": MODEL,
        "implementation": "benchmarks.mlserver_runtime.BundleRuntime",
        "parameters": {"uri": str(bundle)},
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(model))
    return [str(python.parent / "mlserver"), "start", str(folder)]


def triton_command(bundle: Path, ports: Ports, folder: Path, python: Path) -> list[str]:
    """Return what starts the Triton of PyPI's nvidia-pytriton with an exported repository."""
    (site,) = (python.parent.parent / "lib").glob("python3.*/site-packages")
    version = site.parent.name.removeprefix("python")
    triton = site / "pytriton" / "tritonserver"
    stub = triton / "backends" / "python" / "triton_python_backend_stub"
    if not stub.exists():
        stub.symlink_to(triton / "python_backend_stubs" / version / stub.name)
    base = subprocess.run(
        [str(python), "-c", "import sys; print(sys.base_prefix)"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    triton_repository(bundle, folder, [str(ROOT), str(site)])
    return [
        "env", f"LD_LIBRARY_PATH={base}/lib:{site}/nvidia_pytriton.libs",
        str(triton / "bin" / "tritonserver"),
        f"--model-repository={folder}", f"--backend-directory={triton / 'backends'}",
        f"--http-port={ports.http}", f"--grpc-port={ports.grpc}",
        f"--metrics-port={ports.metrics}", "--http-address=127.0.0.1", "--grpc-address=127.0.0.1",
    ]  # fmt: skip


def triton_repository(bundle: Path, folder: Path, path: Sequence[str]) -> None:
    """Write a model repository that batches as Triton does by itself."""
    scorer = Bundle.open(bundle).scorer()
    types = {"number": "TYPE_FP32", "key": "TYPE_INT64"}
    inputs = [
        f'{{ name: "{one.name}" data_type: {types[one.kind]} dims: [ 1 ] }}'
        for one in scorer.inputs
    ]
    (folder / MODEL / "1").mkdir(parents=True)
    (folder / MODEL / "config.pbtxt").write_text(
        f'name: "{MODEL}"\nbackend: "python"\nmax_batch_size: 1024\ndynamic_batching {{ }}\n'
        f"input [ {', '.join(inputs)} ]\n"
        f'output [ {{ name: "{scorer.outputs[0].name}" data_type: TYPE_FP32 dims: [ 1 ] }} ]\n'
        "instance_group [ { kind: KIND_CPU count: 1 } ]\n"
    )
    text = (ROOT / "benchmarks" / "triton_model.py").read_text()
    text = text.replace("{path}", ":".join(path)).replace("{bundle}", str(bundle))
    (folder / MODEL / "1" / "model.py").write_text(text)


COMMANDS = {"embery": embery_command, "mlserver": mlserver_command, "triton": triton_command}


@contextmanager
def serving(server: str, bundle: Path, python: Path, core: int) -> Iterator[Ports]:
    """Run a server on one core; yield its ports when it is ready."""
    with tempfile.TemporaryDirectory() as name:
        folder, ports = Path(name), Ports.free()
        command = COMMANDS[server](bundle, ports, folder, python)
        environment = {
            **os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        with (folder / "log").open("w") as output:
            process = subprocess.Popen(
                ["taskset", "-c", str(core), *command],
                env=environment, stdout=output, stderr=output, cwd=folder,
            )  # fmt: skip
            try:
                wait_ready(process, f"http://127.0.0.1:{ports.http}/v2/models/{MODEL}/ready")
                yield ports
            except BaseException:
                log((folder / "log").read_text()[-8000:])
                raise
            finally:
                process.terminate()
                process.wait(START_S)


def wait_ready(process: subprocess.Popen[bytes], url: str) -> None:
    """Wait until a server says that its model is ready."""
    end_s = time.monotonic() + START_S
    while time.monotonic() < end_s:
        if process.poll() is not None:
            raise SystemExit(f"the server ended with {process.returncode}")
        try:
            with LOCAL.open(url, timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
    raise SystemExit(f"not ready within {START_S:g} s: {url}")


# -- Load -----------------------------------------------------------------------------------------


def batches_of(bundle: Path, samples: int, *, column: bool) -> list[Arrays]:
    """Return requests of so many samples; each feature is (B,), or (B, 1) for a `column`."""
    generator = np.random.Generator(np.random.PCG64(samples))
    shape = (samples, 1) if column else (samples,)
    inputs = Bundle.open(bundle).scorer().inputs
    return [
        {
            one.name: generator.standard_normal(shape).astype(np.float32)
            if one.kind == "number"
            else generator.integers(0, workloads.W2_VOCABULARY, shape)
            for one in inputs
        }
        for _ in range(REQUESTS)
    ]


async def check(load: Load, bundle: Path, batches: Sequence[Arrays]) -> None:
    """Raise unless the server gives the scores of the bundle."""
    scorer = Bundle.open(bundle).scorer()
    ask = await connect(load, batches)
    for batch in batches:
        expected = scorer.score(scorer.read(batch))
        found = await asyncio.wait_for(ask(), START_S)
        np.testing.assert_allclose(found, expected, atol=TOLERANCE)


def run(args: argparse.Namespace) -> None:
    """Measure one server under every load; make the bundle first where it is missing."""
    if not args.bundle.exists():
        command = [sys.executable, "-m", "benchmarks.serving", "make", "--bundle", str(args.bundle)]
        subprocess.run(command, check=True)
    clients = os.sched_getaffinity(0) - {args.core} or {args.core}
    with serving(args.server, args.bundle, args.python, args.core) as ports:
        os.sched_setaffinity(0, clients)
        for samples in args.batch:
            batches = batches_of(args.bundle, samples, column=args.server == "triton")
            for protocol in args.protocol:
                port = ports.grpc if protocol == "grpc" else ports.http
                load = Load(protocol, "127.0.0.1", port, MODEL)
                asyncio.run(check(load, args.bundle, batches))
                for connections in args.connections:
                    rate, taken_s = asyncio.run(
                        measure(load, batches, connections=connections, seconds=args.seconds)
                    )
                    workload = workload_of(protocol, samples, connections)
                    figures = {
                        "requests_per_s": (rate, "1/s"),
                        "p50_ms": (float(np.quantile(taken_s, 0.5)) * 1e3, "ms"),
                        "p99_ms": (float(np.quantile(taken_s, 0.99)) * 1e3, "ms"),
                    }
                    for metric, (value, unit) in figures.items():
                        emit(args.server, f"{metric} {workload}", value, unit, workload)


def make(args: argparse.Namespace) -> None:
    """Export the model of W2, with the initial values of its rows and weights."""
    from benchmarks.serving_model import export_w2  # noqa: PLC0415  torch only where it is wanted

    export_w2(args.bundle)
    log(f"made {args.bundle}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["make", "run"])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--server", choices=COMMANDS, default="embery")
    parser.add_argument(
        "--python", type=Path, default=Path(sys.executable), help="interpreter that has the server"
    )
    parser.add_argument("--core", type=int, default=0, help="core of the server")
    parser.add_argument("--batch", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--connections", type=int, nargs="+", default=CONNECTIONS)
    parser.add_argument(
        "--protocol", nargs="+", choices=["json", "binary", "grpc"], default=PROTOCOLS
    )
    parser.add_argument("--seconds", type=float, default=5.0)
    args = parser.parse_args()
    args.bundle = args.bundle.resolve()
    {"make": make, "run": run}[args.action](args)


if __name__ == "__main__":
    main()
