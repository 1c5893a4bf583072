"""`embery doctor`: what this machine offers Embery, what is missing, how a cluster is reached."""

from __future__ import annotations

import argparse
import ctypes
import os
import platform
import resource
import shutil
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from embery import __version__
from embery.cli.command import add_json_argument, print_json
from embery.cli.finding import Finding
from embery.cli.serving import add_credential_arguments, credentials_of
from embery.rpc.address import PORT_MAX, SCHEME
from embery.validation import require_int

EXAMPLE = """embery doctor --port 7070
  embery doctor --store embery://10.0.0.1:7070 --transport rdma --json"""
FREE_DISK_LOW_BYTES = 10 << 30
LOCKED_MEMORY_LOW_BYTES = 1 << 30
INFINIBAND = Path("/sys/class/infiniband")
_SIGNS = {"ok": "ok  ", "note": "note", "failed": "FAIL"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--store",
        metavar="URL",
        help="also check the cluster of this coordinator: versions, clocks, and by which transport "
        "each server is reached from here (default: $EMBERY_STORE, if set)",
    )
    parser.add_argument(
        "--transport",
        metavar="X",
        default="auto",
        help="by which servers must be reached (default: auto, the best that both ends have)",
    )
    parser.add_argument(
        "--port",
        metavar="P",
        type=int,
        action="append",
        default=[],
        help="also check that nobody listens at this port; may be given again",
    )
    add_json_argument(parser)
    add_credential_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print all findings; fail if one of them keeps Embery from running."""
    for port in arguments.port:
        require_int("--port", port, low=1, high=PORT_MAX)
    findings = [check() for check in CHECKS]
    findings += [_port(port) for port in arguments.port]
    url = arguments.store or os.environ.get("EMBERY_STORE", "")
    if arguments.store or url.startswith(SCHEME):
        findings += _cluster(url, arguments)
    if arguments.json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            advice = f"  ({finding.advice})" if finding.advice else ""
            print(f"{_SIGNS[finding.status]}  {finding.name:<13}  {finding.found}{advice}")
    return int(any(finding.status == "failed" for finding in findings))


def _cluster(url: str, arguments: argparse.Namespace) -> list[Finding]:
    try:
        from embery.cli.cluster_checks import cluster_findings  # noqa: PLC0415  slow to import
    except ImportError as error:
        return [Finding("cluster", "failed", str(error), "build the native code, and try again")]
    return list(cluster_findings(url, credentials_of(arguments), arguments.transport))


def _versions() -> Finding:
    packages = []
    for name in ("numpy", "pyarrow"):
        try:
            packages.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            return Finding("versions", "failed", f"{name} is missing", f"pip install {name}")
    python = f"Python {platform.python_version()}"
    return Finding("versions", "ok", ", ".join([f"embery {__version__}", python, *packages]))


def _system() -> Finding:
    return Finding("system", "ok", f"{platform.system()} {platform.release()} {platform.machine()}")


def _processor() -> Finding:
    usable, present = len(os.sched_getaffinity(0)), os.cpu_count()
    found = f"{_field('/proc/cpuinfo', 'model name') or 'unknown'}, {usable} of {present} usable"
    return Finding("processor", "ok", found)


def _native() -> Finding:
    try:
        from embery import _native as native  # noqa: PLC0415  the check is whether it loads
    except ImportError as error:
        return Finding("native code", "failed", str(error), "build it: pip install .")
    targets = native.simd_targets()
    if len(targets) > 1:
        return Finding("native code", "ok", f"SIMD targets: {', '.join(targets)}")
    return Finding("native code", "note", f"SIMD targets: {', '.join(targets)}", "no AVX2: slower")


def _memory() -> Finding:
    total, available = (_field("/proc/meminfo", name) for name in ("MemTotal", "MemAvailable"))
    if total is None or available is None:
        return Finding("memory", "note", "unknown: /proc/meminfo cannot be read")
    return Finding("memory", "ok", f"{_gib(available)} available of {_gib(total)}")


def _huge_pages() -> Finding:
    try:
        text = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    except OSError:
        return Finding("huge pages", "note", "this kernel has none", "large tables are slower")
    mode = text.partition("[")[2].partition("]")[0]
    if mode == "never":
        return Finding(
            "huge pages",
            "note",
            "transparent huge pages: never",
            "large tables are faster with: echo madvise > "
            "/sys/kernel/mm/transparent_hugepage/enabled",
        )
    return Finding("huge pages", "ok", f"transparent huge pages: {mode}")


def _locked_memory() -> Finding:
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if limit == resource.RLIM_INFINITY:
        return Finding("locked memory", "ok", "no limit")
    found = f"limit of {limit / 2**20:g} MiB"
    if limit < LOCKED_MEMORY_LOW_BYTES and any(INFINIBAND.glob("*")):
        return Finding("locked memory", "note", found, "rdma needs more: ulimit -l unlimited")
    return Finding("locked memory", "ok", found)


def _rdma() -> Finding:
    ports = [
        f"{device.name} port {port.name} {_line(port / 'link_layer')} "
        f"{_line(port / 'state').partition(': ')[2].lower()}, GIDs {_gids(port) or 'none'}"
        for device in sorted(INFINIBAND.glob("*"))
        for port in sorted((device / "ports").glob("*"))
    ]
    if not ports:
        return Finding("rdma", "note", "no device; rows travel by shm, tcp or grpc")
    try:
        ctypes.CDLL("libibverbs.so.1")
    except OSError:
        return Finding("rdma", "note", "; ".join(ports), "no libibverbs.so.1: install rdma-core")
    if not any(" active" in port for port in ports):
        return Finding("rdma", "note", "; ".join(ports), "no port is active")
    return Finding("rdma", "ok", "; ".join(ports))


def _gids(port: Path) -> str:
    """Return the kinds of the GIDs of a port by their numbers; an empty one has no kind."""
    kinds: dict[str, list[str]] = {}
    for file in sorted((port / "gid_attrs" / "types").glob("*"), key=lambda path: int(path.name)):
        try:
            kinds.setdefault(_line(file), []).append(file.name)
        except OSError:
            continue
    return ", ".join(f"{kind} {' '.join(numbers)}" for kind, numbers in kinds.items())


def _port(port: int) -> Finding:
    name = f"port {port}"
    with socket.socket() as taken:
        # As a role binds it: what a closed connection left behind does not matter.
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("", port))
        except OSError as error:
            return Finding(name, "failed", error.strerror or str(error), "choose another port")
    return Finding(name, "ok", "free")


def _torch() -> Finding:
    try:
        import torch  # noqa: PLC0415  slow, and not needed by a server
    except ImportError:
        return Finding(
            "torch", "note", "not installed", "training needs it: pip install 'embery[train]'"
        )
    cuda = f"CUDA devices: {torch.cuda.device_count()}" if torch.cuda.is_available() else "no CUDA"
    return Finding("torch", "ok", f"torch {torch.__version__}, {cuda}")


def _disk() -> Finding:
    usage = shutil.disk_usage(".")
    found = f"{usage.free / 2**30:.1f} GiB free of {usage.total / 2**30:.1f} GiB in {os.getcwd()}"
    if not os.access(".", os.W_OK):
        return Finding("disk", "note", found, "not writable: save checkpoints elsewhere")
    if usage.free < FREE_DISK_LOW_BYTES:
        return Finding("disk", "note", found, "little room for checkpoints")
    return Finding("disk", "ok", found)


CHECKS: tuple[Callable[[], Finding], ...] = (
    _versions,
    _system,
    _processor,
    _native,
    _memory,
    _huge_pages,
    _locked_memory,
    _rdma,
    _torch,
    _disk,
)


def _field(file: str, name: str) -> str | None:
    """Return the value of the first line "name : value" of a file under /proc."""
    if sys.platform != "linux":
        return None
    for line in Path(file).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None


def _line(file: Path) -> str:
    return file.read_text(encoding="ascii").strip()


def _gib(kilobytes: str) -> str:
    return f"{int(kilobytes.removesuffix(' kB')) / 2**20:.1f} GiB"
